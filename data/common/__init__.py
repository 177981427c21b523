"""Shared by all of `data`: errors that a user sees in one line, files, and command lines. Imports nothing else of `data`."""
