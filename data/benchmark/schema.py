"""A benchmark: the schemas of its databases, and its splits of questions with their SQL."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

SUFFIXES = (".sqlite", ".sqlite3", ".db")  # of databases


@dataclass(frozen=True)
class Schema:
    """A database's tables, columns and keys, with the names used in SQL, in the order of `tables.json`.

    `columns` holds (index into `tables`, name); its first entry is (-1, "*"). Keys are indices into `columns`; the columns of
    composite primary keys stand in one list. `full_names`: prompts and answers write columns with their tables' names.
    """

    db_id: str
    tables: tuple[str, ...]
    columns: tuple[tuple[int, str], ...]
    column_types: tuple[str, ...]
    primary_keys: tuple[int, ...]
    foreign_keys: tuple[tuple[int, int], ...]
    full_names: bool = False


@dataclass(frozen=True)
class Example:
    """A question about one database, and the SQL that answers it; `index` counts from 0 within its split.

    `values` are cells of the database that the question mentions: dicts of `column`, an index into the schema's columns,
    and `text` (`data/benchmark/values.py`).
    """

    index: int
    db_id: str
    question: str
    sql: str
    values: tuple[dict, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """The splits read from one directory."""

    root: Path
    schemas: dict[str, Schema]
    splits: dict[str, list[Example]]
    folders: dict[str, Path] = field(repr=False)  # split -> folder of its databases

    @property
    def evaluated(self) -> str:
        """The split that a run is scored on: the last one read."""
        return list(self.splits)[-1]

    def databases(self, db_id: str, split: str) -> list[Path]:
        """The SQLite files of one database, `<db_id>.sqlite` first; a test suite has several."""
        first = database_file(self.folders[split], db_id)
        suite = first.parent.glob("*.sqlite") if first.parent != self.folders[split] else ()
        return [first, *sorted(path for path in suite if path != first)]

    def summary(self) -> dict:
        """The number of examples by split, and a hash of schemas and examples, for a run's records."""
        digest = hashlib.sha256()
        for db_id in sorted(self.schemas):
            parts = asdict(self.schemas[db_id])
            digest.update(json.dumps({name: part for name, part in parts.items() if part or name != "full_names"}).encode())
        for split, examples in sorted(self.splits.items()):
            seen = [{name: part for name, part in asdict(e).items() if part or name != "values"} for e in examples]
            digest.update(json.dumps([split, seen]).encode())
        counts = {split: len(examples) for split, examples in self.splits.items()}
        return {"directory": str(self.root), "examples": counts, "sha256": digest.hexdigest()}


def database_file(folder: Path, db_id: str) -> Path:
    """A database's main SQLite file in a folder: `<db_id>/<db_id>.sqlite` or `<db_id>.sqlite`, or with another suffix."""
    places = [place / f"{db_id}{suffix}" for place in (folder / db_id, folder) for suffix in SUFFIXES]
    return next((path for path in places if path.is_file()), places[0])
