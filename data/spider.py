"""The command `python3 -m data.spider`: says what a directory holds, or makes its tables.json (`benchmark/spider.py`)."""

from functools import partial

from data.answers.grammar import outside_lines
from data.benchmark.spider import main
from data.common.errors import exit_on_user_error

if __name__ == "__main__":
    exit_on_user_error(partial(main, outside_lines))
