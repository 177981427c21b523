"""Read files of records (JSON, JSON Lines, CSV, also gzipped), and write files atomically."""

import csv
import gzip
import io
import json
import os
import sys
import zlib
from pathlib import Path

from data.common.errors import UserError


def write_atomically(path: Path, text: str) -> None:
    """Write a file as UTF-8; neither a reader nor a crash ever sees a part of it."""
    aside = path.with_name(path.name + ".tmp")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def move_aside(path: Path) -> Path:
    """Rename a file or folder to the first of its name and .1, .2 and so on that is free -> its new path. Raises OSError."""
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return path.rename(aside)


def read_object(path: Path, remedy: str) -> dict:
    """Read a JSON object from a run folder; NaN and infinities become None.

    Raises UserError, with `remedy`, where the file is missing or malformed.
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
    """Flush a folder's entries to disk; until then a crash can undo a rename."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def read_text(path: Path, remedy: str, errors: str = "strict") -> str:
    """Read a UTF-8 text, gzipped or not, without its byte-order mark; `errors` as for `bytes.decode`.

    Raises UserError where the file is missing, unreadable, not a regular file, or not valid UTF-8 or gzip.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe or a device may never end
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
    """Read records; the extension says how: `.jsonl` (an object per line), `.csv`, `.tsv`, else JSON (a list of objects).

    CSV has a header, whose names are lower-cased, and commas, semicolons or tabs as separators, `.tsv` tabs. A `.json` that
    holds an object per line is read too. Raises UserError as `read_text` does, and where the text is malformed or holds
    anything else.
    """
    text, ending = read_text(path, remedy, errors), ending_of(path)
    kind = {".csv": "CSV", ".tsv": "CSV", ".jsonl": "JSON Lines"}.get(ending, "JSON")
    try:
        records = _csv(text, "\t" if ending == ".tsv" else ",;\t") if kind == "CSV" else _json(text, kind)
    except (ValueError, RecursionError) as error:  # also for numbers that are too long, and nesting too deep
        raise UserError(f"{path} is not valid {kind} ({error}): {remedy}") from None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path} does not hold a list of JSON objects: {remedy}")
    return records


def ending_of(path: Path) -> str:
    """A file's extension in lower case, ignoring `.gz`: `.csv` for `q.CSV.gz`."""
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _json(text: str, kind: str) -> list:
    if kind == "JSON":
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":
                raise
    records = []
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would also split at U+2028 within a text
        try:
            records += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"line {number:,}: {error}") from None
    return records


def _csv(text: str, separators: str) -> list[dict]:
    header = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(separators, key=header.count), strict=True)
    names, records = [], []
    csv.field_size_limit(sys.maxsize)  # a result may stand in a cell
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
