"""Errors that the user can cause and fix: one line with the fault and the remedy, exit code 2."""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
# of a place that a user names; not ENOENT, as a file of the program's own that is missing is a fault of the program
NO_PLACE = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.EIO, errno.ESTALE)
REST = 5.0  # seconds in which a launcher ends the other processes of a run that failed


class UserError(Exception):
    """Bad input or options; the message says in one line what is wrong and how to fix it."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised from or while handling, one after another."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def exit_on_user_error(main: Callable[[], T]) -> T:
    """Return what `main` returns; end what a user can mend with one line on stderr and exit code 2.

    That is a UserError, a full disk, a path that cannot be read or written, and a GPU out of memory. Ctrl-C ends it with the
    shell's code for that. Where a reader of the output has had enough, as `head` has, the exit code is 1. Of the processes of
    a run on one host the first says what is wrong with all.

    Characters that standard output cannot encode are replaced.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    try:
        made = main()
        sys.stdout.flush()
        return made
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr, flush=True)
        sys.exit(128 + signal.SIGINT)
    except UserError as error:
        message = " ".join(str(error).split())
    except BrokenPipeError:
        to_nowhere(sys.stdout.fileno())  # where what is left goes at the end
        sys.exit(1)
    except OSError as error:
        if error.errno in NO_SPACE:
            of = f" of {error.filename}" if error.filename else ""
            message = f"no space left on the disk{of}: free some, and go on or try again"
        elif error.errno in NOT_ALLOWED and error.filename:
            message = f"{error.filename} cannot be read or written ({error.strerror}): allow it, or name another place"
        elif error.errno in NO_PLACE and error.filename:
            message = f"{error.filename} cannot be read or written ({error.strerror}): name another place"
        else:
            raise
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, known by its name as this module must not import torch
            raise
        message = (
            "the GPU's memory is full: for training lower --batch_tokens, or use --gradient_checkpointing on, and go on with "
            "--resume; for answers lower --num_beams or --max_output_tokens; shorter "
            f"prompts (--max_input_tokens) help both, in a new run ({'. '.join(' '.join(str(error).split()).split('. ')[:2])})"
        )
    if os.environ.get("LOCAL_RANK", "0") != "0":  # the first most likely says the same, and its end ends this one
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(REST)
    print(f"error: {printable(message)}", file=sys.stderr, flush=True)
    sys.exit(2)


def to_nowhere(file: int) -> None:
    """Let a file descriptor lead to the null device."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file)
    os.close(nowhere)


def printable(text: str) -> str:
    """Replace unprintable characters, with which text of a model, a file or a database could control the terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
