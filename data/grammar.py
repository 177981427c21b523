"""The command `python3 -m data.grammar`: says which gold SQL the grammar takes (`answers/grammar.py`)."""

from data.answers.grammar import main
from data.common.errors import exit_on_user_error

if __name__ == "__main__":
    exit_on_user_error(main)
