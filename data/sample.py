"""The command `python3 -m data.sample`: builds the embedded sample (`benchmark/sample.py`)."""

from data.benchmark.sample import main
from data.common.errors import exit_on_user_error

if __name__ == "__main__":
    exit_on_user_error(main)
