"""What the processes of a run all come to, printed once."""

import os

SAID = "TEXT_TO_SQL_SAID"  # in the environment of processes whose launcher has printed what comes before its launch


def say(line: str) -> None:
    """Print a line from the first process of a run, unless its launcher came to it, too."""
    if os.environ.get("RANK", "0") == "0" and SAID not in os.environ:
        print(line)
