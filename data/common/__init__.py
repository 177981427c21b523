"""Shared by all of `data`: errors that a user sees in one line, and files. Imports nothing else of `data`."""
