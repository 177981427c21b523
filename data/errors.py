"""Errors that a user can cause and mend: one line that names the thing and the remedy, exit code 2."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """A fault of the input or the options, worded for the person who can mend it (one line)."""


def exit_on_user_error(main: Callable[[], None]) -> None:
    """Run `main`; a UserError becomes one line on standard error and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        sys.exit(2)
