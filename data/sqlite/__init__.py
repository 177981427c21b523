"""Untrusted SQL, run read-only under limits, and database files in any state. Knows no benchmark."""
