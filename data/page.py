"""The command `python3 -m data.page`: makes a run's report.html anew (`report/page.py`)."""

from data.common.errors import exit_on_user_error
from data.report.page import main

if __name__ == "__main__":
    exit_on_user_error(main)
