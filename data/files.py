"""Files of a run folder, read and written so that nobody meets half of one."""

import json
import os
from pathlib import Path

from data.errors import UserError


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, never meets half of it."""
    aside = path.with_name(path.name + ".tmp")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def read_object(path: Path, remedy: str) -> dict:
    """A JSON object from a run folder, with None for NaN and infinities.

    Raises UserError, with `remedy`, where it is missing or malformed.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {remedy}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): {remedy}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a JSON object: {remedy}")
    return content


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk: a rename is not there before."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
