"""What every room needs: errors that a user sees in one line, and files read and written whole. Imports nothing of `data`."""
