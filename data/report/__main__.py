"""The command `python3 -m data.report`: compares runs (`curves.py`)."""

from data.common.errors import exit_on_user_error
from data.report.curves import main

if __name__ == "__main__":
    exit_on_user_error(main)
