"""Database files that were damaged at random: no traceback, no hang, no change on the disk."""

import json
import random
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from test_execute import contents, journal_after_a_crash, wal_after_a_crash

from data.benchmark.spider import inspect, schema_of_database, tables_entry
from data.benchmark.values import Values
from data.common.errors import UserError
from data.sqlite.execute import ERROR_CLASSES, Executor

TABLES = """
CREATE TABLE owner (id INTEGER PRIMARY KEY, name TEXT, note BLOB);
CREATE TABLE pet (id INTEGER PRIMARY KEY, name TEXT UNIQUE, owner INTEGER REFERENCES owner (id)) STRICT;
CREATE TABLE code (key TEXT PRIMARY KEY, value REAL) WITHOUT ROWID;
CREATE INDEX names ON owner (name);
CREATE VIEW named AS SELECT pet.name, owner.name AS owner FROM pet JOIN owner ON owner.id = pet.owner;
CREATE VIRTUAL TABLE note USING fts5(text);
CREATE VIRTUAL TABLE area USING rtree(id, low, high);
"""
STATEMENTS = (
    "SELECT name, count(*) FROM owner GROUP BY name ORDER BY 2 DESC",
    "SELECT * FROM named ORDER BY owner",
    "SELECT sum(value), max(key) FROM code WHERE key > 'k1'",
    "SELECT id FROM owner WHERE name = 'owner 7'",
    "SELECT a, count(*) FROM pet GROUP BY a",
    "SELECT length(note), hex(note) FROM owner",
    "SELECT text FROM note WHERE note MATCH 'seven'",
    "SELECT id FROM area WHERE low < 9",
    "SELECT DISTINCT pet.id FROM pet, code, area LIMIT 1000",
)


def make(folder: Path) -> Path:
    """A database of several pages, with tables and indices of all kinds."""
    folder.mkdir()
    with closing(sqlite3.connect(folder / "pet.sqlite")) as connection, connection:
        connection.executescript("PRAGMA page_size = 1024;" + TABLES)
        connection.executemany("INSERT INTO owner VALUES (?, ?, ?)", [(i, f"owner {i}", bytes(i * 40)) for i in range(60)])
        connection.executemany("INSERT INTO pet VALUES (?, ?, ?)", [(i, f"pet {i}", i % 60) for i in range(150)])
        connection.executemany("INSERT INTO code VALUES (?, ?)", [(f"k{i}", i / 3) for i in range(200)])
        connection.executemany("INSERT INTO note VALUES (?)", [("six seven " * (i % 5),) for i in range(40)])
        connection.executemany("INSERT INTO area VALUES (?, ?, ?)", [(i, i, i + 2) for i in range(60)])
    return folder


def make_wal(folder: Path) -> Path:
    with closing(sqlite3.connect(make(folder) / "pet.sqlite")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    return folder


def damage(path: Path, rng: random.Random) -> None:
    """Change a file at random: bytes, whole pieces, its length, or its header, where most is said in few bytes."""
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 2, 5, 40))):
        size = len(content)
        kind = rng.randrange(6)
        place = rng.randrange(max(1, size))
        if kind == 0:
            del content[place:]
        elif kind == 1 and size:
            content[place] = rng.randrange(256)
        elif kind == 2 and size > 16:
            content[rng.randrange(16, min(size, 120))] = rng.choice((0, 1, 2, 127, 255, rng.randrange(256)))
        elif kind == 3:
            content[place : place + 64] = rng.randbytes(rng.randrange(65))
        elif kind == 4:
            start, other = (rng.randrange(max(1, size // 1024)) * 1024 for _ in range(2))
            content[start : start + 1024] = content[other : other + 1024]
        else:
            content[place : place + 8] = rng.choice((bytes(8), b"\xff" * 8, b"\x7f" + b"\xff" * 7))
    path.write_bytes(content)


def check_damaged(root: Path, count: int) -> None:
    rng = random.Random(count)
    kinds = [make(root / "plain"), make_wal(root / "wal")]
    for name, state in (("logged", wal_after_a_crash), ("journaled", journal_after_a_crash)):
        (root / name).mkdir()
        state(root / name / "kind")
        kinds.append(root / name / "kind")
    whole = {kind: schema_of_database(kind / "pet.sqlite") for kind in kinds}
    data, examples = root / "data", []
    entries = []
    for number in range(count):
        kind, db_id = kinds[number % len(kinds)], f"pet{number}"
        folder = Path(shutil.copytree(kind, data / "database" / db_id))
        for path in list(folder.iterdir()):
            if path.name == "pet.sqlite" or rng.random() < 0.5:
                damage(path, rng)
            path.rename(path.with_name(path.name.replace("pet.sqlite", f"{db_id}.sqlite")))
        entries.append(tables_entry(kind / "pet.sqlite", db_id))
        examples.append({"db_id": db_id, "question": "Which?", "query": rng.choice(STATEMENTS)})
    (data / "tables.json").write_text(json.dumps(entries))
    (data / "dev.json").write_text(json.dumps(examples))
    before = contents(data)
    paths = [data / "database" / example["db_id"] / f"{example['db_id']}.sqlite" for example in examples]
    slowest, refused = 0.0, 0
    for number, path in enumerate(paths):
        start = time.monotonic()
        for schema in (None, whole[kinds[number % len(kinds)]]):
            try:
                Values(path, schema or schema_of_database(path)).mentioned("owner 7")
            except UserError as error:
                refused += 1
                assert str(error).startswith(str(path)) or "holds no tables" in str(error), error
        slowest = max(slowest, time.monotonic() - start)
    assert slowest < 20  # SQLite itself waits ten seconds, once, for a damaged index of a log to become a whole one
    assert 0 < refused < 1.9 * count
    with Executor(workers=2, seconds=2) as executor:
        jobs = [(path, sql) for path in paths for sql in rng.sample(STATEMENTS, 3)]
        results = executor.run(jobs)
    assert all(result.error is None or result.error in ERROR_CLASSES for result in results)
    assert 0.05 < sum(result.error is None for result in results) / len(results) < 0.95
    assert inspect(data)[0].startswith(f"dev: {count:,} examples, {count} databases: ")
    assert contents(data) == before


def test_a_hundred_damaged_files(tmp_path):
    check_damaged(tmp_path, 100)


def test_a_damaged_name_that_is_not_text_is_an_error_of_the_file(tmp_path):
    with sqlite3.connect(tmp_path / "pet.sqlite") as connection:
        connection.execute("CREATE TABLE pet (name)")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET name = CAST(x'706574a3' AS TEXT), sql = 'CREATE TABLE'")
    with pytest.raises(UserError, match="pet.sqlite cannot be read"):
        schema_of_database(tmp_path / "pet.sqlite")


@pytest.mark.slow
def test_five_hundred_damaged_files(tmp_path):
    check_damaged(tmp_path, 500)
