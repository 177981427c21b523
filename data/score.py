"""The command `python3 -m data.score`: scores predictions, or a run again (`answers/score.py`)."""

from data.answers.score import main
from data.common.errors import exit_on_user_error

if __name__ == "__main__":
    exit_on_user_error(main)
