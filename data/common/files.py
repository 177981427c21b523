"""Files of records, of one's own or a run's: read in the forms in which people have them, written so that nobody meets half."""

import csv
import gzip
import io
import json
import os
import zlib
from pathlib import Path

from data.common.errors import UserError


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


def read_text(path: Path, remedy: str, errors: str = "strict") -> str:
    """A text, unpacked where gzip packed it, without a byte-order mark; `errors`: as of `bytes.decode`.

    Raises UserError, with `remedy`, where the file is missing, no regular file, or not what it seems.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe may wait for ever, a device may never end
            raise UserError(f"{path} cannot be read (it is no regular file): {remedy}")
        content = path.read_bytes()
        return (gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content).decode("utf-8-sig", errors)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {remedy}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 at byte {error.start:,}: save it as UTF-8; {remedy}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}): pack it again; {remedy}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the file and its permissions") from None


def read_records(path: Path, remedy: str, errors: str = "strict") -> list[dict]:
    """The records of a text, by its name: JSON (a list of objects), `.jsonl` (one a line) or `.csv` (fields named above).

    Fields are separated by commas, semicolons or tabs, and their names are lower case whatever the file's. JSON that turns out
    to be one object a line is read so. Raises UserError as `read_text`, and where the text is malformed or of another shape.
    """
    text, ending = read_text(path, remedy, errors), ending_of(path)
    kind = {".csv": "CSV", ".tsv": "CSV", ".jsonl": "JSON Lines"}.get(ending, "JSON")
    try:
        records = _csv(text) if kind == "CSV" else _json(text, kind)
    except (ValueError, RecursionError) as error:  # among them a number or a nesting without end
        raise UserError(f"{path} is not valid {kind} ({error}): {remedy}") from None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path} does not hold a list of JSON objects: {remedy}")
    return records


def ending_of(path: Path) -> str:
    """The ending of a file's name, lower case, without gzip's: `.csv` of `q.CSV.gz`."""
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _json(text: str, kind: str) -> list:
    if kind == "JSON":
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":
                raise
    records = []
    for number, line in enumerate(text.split("\n"), 1):  # a text may hold what else counts as the end of a line
        try:
            records += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"line {number:,}: {error}") from None
    return records


def _csv(text: str) -> list[dict]:
    header = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    names, records = [], []
    try:
        for row in reader:
            if not names:
                names = [name.strip().lower() for name in row]
            elif len(row) == len(names):
                records.append(dict(zip(names, row)))
            elif row:
                what = f"has {len(row):,} fields and not {len(names):,}, as the first: put texts with a separator in quotes"
                raise ValueError(f"line {reader.line_num:,} {what}")
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num:,}: {error}") from None
    return records
