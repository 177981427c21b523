"""A benchmark out of one's own databases: `tables.json`, keys that are guessed, and questions in several forms."""

import csv
import gzip
import json
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from data.answers.grammar import check
from data.benchmark.foreign_keys import guess
from data.benchmark.spider import inspect, load, make, schema_of_database
from data.common.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PETS = "CREATE TABLE pet (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO pet VALUES (1, 'Rex'), (2, 'Tom');"
GOLD = {"db_id": "pets", "question": "How many pets are there?", "query": "SELECT count(*) FROM pet"}


def make_database(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return path


@pytest.fixture(params=["pets.sqlite", "pets.db", "pets.sqlite3", "pets/pets.sqlite"])
def own(request, tmp_path) -> Path:
    """A directory with one database, in each of the places where it may stand."""
    make_database(tmp_path / "own" / "database" / request.param, PETS)
    return tmp_path / "own"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------------- tables.json


def test_databases_become_a_benchmark_that_everything_reads(own):
    before = files(own)
    lines = make(own)
    assert lines[0] == "pets: 1 tables, 2 columns" and f"write questions into {own / 'train.csv'}" in lines[-1]
    assert lines[-2].endswith("holds 1 database")
    after = files(own)
    assert {name: content for name, content in after.items() if name != "tables.json"} == before
    for name in ("train.csv", "dev.csv"):
        (own / name).write_text("db_id,question,query\n")
    assert make(own)[-1] == f"next: python3 -m data.spider {own}"
    for name in ("train.csv", "dev.csv"):
        (own / name).unlink()
    (own / "dev.json").write_text(json.dumps([GOLD, GOLD | {"query": "SELECT name FROM pet"}]))
    benchmark = load(own, ("dev",), values=True)
    (database,) = benchmark.databases("pets", "dev")
    assert benchmark.schemas["pets"] == schema_of_database(database, "pets")
    assert inspect(own) == ["dev: 2 examples, 1 databases: 1 present", "  gold that runs: 2 of 2"]
    assert "dev, full names: 2 of 2 gold statements accepted (100.00%)" in list(check(own))


def test_scoring_finds_the_databases(own):
    make(own)
    (own / "predicted.sql").write_text("SELECT count(id) FROM pet\nSELECT 3\n")
    (own / "gold.sql").write_text("SELECT count(*) FROM pet\tpets\n" * 2)
    words = ["--predictions", own / "predicted.sql", "--gold", own / "gold.sql", "--data", own, "--out", own / "scored"]
    done = subprocess.run([sys.executable, "-m", "data.score", *words], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads((own / "scored" / "result.json").read_text())["execution_accuracy"] == 0.5


def test_an_earlier_tables_file_moves_aside_and_the_same_stays(own):
    make(own)
    made = (own / "tables.json").read_text()
    assert not [line for line in make(own) if line.startswith("the earlier")] and not (own / "tables.json.1").exists()
    for number in (1, 2):
        (own / "tables.json").write_text(f"[{number}]")
        assert f"the earlier {own / 'tables.json'} now stands in {own / 'tables.json'}.{number}" in make(own)
        assert (own / f"tables.json.{number}").read_text() == f"[{number}]" and (own / "tables.json").read_text() == made


def test_a_database_that_cannot_be_read_is_left_out_and_named(own):
    (own / "database" / "broken.sqlite").write_bytes(b"SQLite format 3\0 and no more")
    (own / "database" / "text.db").write_text("id,name\n")
    (own / "database" / "notes.txt").write_text("not a database, and not taken for one")
    (own / "database" / "hollow").mkdir()
    (own / "database" / "void.db").mkdir()
    make_database(own / "database" / "bare.sqlite", PETS)
    (own / "database" / "bare").mkdir()
    make_database(own / "database" / "tab\tbed.sqlite", PETS)
    left = [line for line in make(own) if line.startswith("left out")]
    named = ("broken", "text.db", "hollow", "void.db", "tab\tbed.sqlite: its db_id is not the name of a folder: rename it")
    assert len(left) == len(named) and all(any(name in line for line in left) for name in named)
    assert [entry["db_id"] for entry in json.loads((own / "tables.json").read_text())] == ["bare", "pets"]


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda own: shutil.rmtree(own), "database is no folder: make it, and copy your SQLite files there"),
        (lambda own: shutil.rmtree(own / "database"), "database is no folder: make it, and copy your SQLite files there"),
        (lambda own: [path.unlink() for path in own.rglob("pets.*")], "holds no database with a table"),
        (lambda own: make_database(own / "database/pets/pets.db", PETS), "are both called pets: rename one of them"),
    ],
)
def test_a_directory_of_which_nothing_can_be_made(tmp_path, prepare, says):
    own = tmp_path / "own"
    make_database(own / "database" / "pets.sqlite", PETS)
    prepare(own)
    with pytest.raises(UserError, match=says):
        make(own)
    assert not (own / "tables.json").exists()


def test_the_command(tmp_path):
    def command(*words):
        return subprocess.run([sys.executable, "-m", "data.spider", *map(str, words)], cwd=ROOT, capture_output=True, text=True)

    make_database(
        tmp_path / "database" / "shop.sqlite",
        """CREATE TABLE customers (id INTEGER PRIMARY KEY); CREATE TABLE orders (id, customer_id INTEGER);
           INSERT INTO customers VALUES (1), (2); INSERT INTO orders VALUES (1, 2), (2, NULL);""",
    )
    done = command("--make", tmp_path)
    assert done.returncode == 0 and done.stdout.splitlines()[0] == "shop: 2 tables, 3 columns", done.stderr
    done = command("--make", "--guess_foreign_keys", tmp_path)
    assert "  guessed: orders.customer_id = customers.id" in done.stdout.splitlines(), done.stderr
    assert json.loads((tmp_path / "tables.json").read_text())[0]["foreign_keys"] == [[3, 1]]
    for words in (["--guess_foreign_keys", tmp_path], ["--make"], ["--make", tmp_path / "none"]):
        done = command(*words)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------------- keys that are guessed


TEAMS = "CREATE TABLE team (id PRIMARY KEY); CREATE TABLE player (team_id); INSERT INTO team VALUES (1);"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("CREATE TABLE team (team_id PRIMARY KEY); CREATE TABLE player (team_id); {0} team VALUES (1); {0} player VALUES (1)",
         [("player.team_id", "team.team_id")]),
        ("CREATE TABLE Cities (ID); CREATE TABLE house ([City Id]); {0} Cities VALUES (1), (2); {0} house VALUES (2), (2)",
         [("house.City Id", "Cities.ID")]),
        ("CREATE TABLE 客户 (编号 PRIMARY KEY); CREATE TABLE 订单 (客户编号); {0} 客户 VALUES (1); {0} 订单 VALUES (1)",
         [("订单.客户编号", "客户.编号")]),
        ("CREATE TABLE game (home_team_id, team); {1}{0} game VALUES (1, 1)",
         [("game.home_team_id", "team.id"), ("game.team", "team.id")]),
        # one to one: the table whose name the key has is the parent
        ("CREATE TABLE pet (pet_id PRIMARY KEY); CREATE TABLE photo (pet_id PRIMARY KEY); {0} pet VALUES (1); "
         "{0} photo VALUES (1)",
         [("photo.pet_id", "pet.pet_id")]),
        # a value that the key lacks; no values at all; a key that is not unique; one that is declared
        ("{1}{0} player VALUES (1), (3)", []),
        ("{1}{0} player VALUES (NULL)", []),
        ("CREATE TABLE team (id); CREATE TABLE player (team_id); {0} team VALUES (1), (1); {0} player VALUES (1)", []),
        ("CREATE TABLE team (id PRIMARY KEY); CREATE TABLE player (team_id REFERENCES team); {0} team VALUES (1); "
         "{0} player VALUES (1)", []),
        # names that say nothing of each other, though the values agree
        ("CREATE TABLE team (id PRIMARY KEY); CREATE TABLE player (id PRIMARY KEY, age); {0} team VALUES (1); "
         "{0} player VALUES (1, 1)", []),
    ],
)  # fmt: skip
def test_foreign_keys_are_guessed_where_names_and_values_agree(tmp_path, script, expected):
    path = make_database(tmp_path / "some.sqlite", script.format("INSERT INTO", TEAMS))
    schema = schema_of_database(path)
    named = [f"{schema.tables[table]}.{name}" for table, name in schema.columns]
    assert [(named[child], named[parent]) for child, parent in guess(path, schema)] == expected


def test_the_keys_of_a_sample_that_declares_them_are_found_without(tmp_path):
    """All that are guessed are true, and most of the true ones are guessed."""
    from data.benchmark import sample

    found = declared = 0
    for db_id in sample.db_ids():
        true = schema_of_database(sample.build() / sample.sqlite_file(db_id))
        source = (sample.SOURCE / "database" / db_id / "schema.sql").read_text()
        path = make_database(
            tmp_path / f"{db_id}.sqlite", re.sub(r",?\s*FOREIGN KEY \(\w+\)|REFERENCES \w+ ?\(\w+\)", "", source)
        )
        bare = schema_of_database(path)
        assert bare.columns == true.columns and not bare.foreign_keys
        guessed = guess(path, bare)
        assert set(guessed) <= set(true.foreign_keys), db_id
        found, declared = found + len(guessed), declared + len(true.foreign_keys)
    assert found >= 0.7 * declared > 0


# --------------------------------------------------------------------------------------------------------- questions


def table(records: list[dict], separator: str = ",") -> str:
    """Records as a CSV."""
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (".json", json.dumps),
        (".jsonl", lambda records: "\n".join(map(json.dumps, records))),
        (".csv", table),
        (".tsv", lambda records: table(records, "\t")),
    ],
)
def test_questions_may_be_written_in_several_forms(tmp_path, ending, text, packed, mark):
    make_database(tmp_path / "database" / "pets.sqlite", PETS)
    make(tmp_path)
    records = [GOLD, GOLD | {"question": 'Name, please: "all",\nof them'}]
    content = mark + text(records).encode()
    for split in ("train", "dev", "test"):
        path = tmp_path / f"{split}{ending}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)
    splits = load(tmp_path, ("train", "dev", "test")).splits
    for examples in splits.values():
        assert [(e.db_id, e.question, e.sql) for e in examples] == [(r["db_id"], r["question"], r["query"]) for r in records]


def test_two_files_of_a_split_are_one_too_many(tmp_path):
    make_database(tmp_path / "database" / "pets.sqlite", PETS)
    make(tmp_path)
    for name in ("dev.json", "dev.csv"):
        (tmp_path / name).write_text(json.dumps([GOLD]))
    with pytest.raises(UserError, match="dev.json and dev.csv both hold the split dev: remove one of them"):
        load(tmp_path, ("dev",))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("dev.csv", "db_id,question\npets,How many?\n", "example 0 has no query: add it or remove the example"),
        ("dev.csv", "pets,How many?,SELECT 1\n", "dev.csv holds no examples"),
        ("dev.csv", "db_id,question,query\npets,How many, then?,SELECT 1\n", "line 2 has 4 fields and not 3"),
        ("dev.jsonl", '{"db_id": "birds", "question": "a", "query": "b"}', "names the database birds, which the tables file"),
        ("dev.jsonl", "db_id", "give a list of objects with db_id, question and query, one such object a line"),
        ("dev.json", "[", "give a list of objects with db_id, question and query"),
    ],
)
def test_what_is_wrong_with_ones_own_questions_is_said(tmp_path, name, content, says):
    make_database(tmp_path / "database" / "pets.sqlite", PETS)
    make(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=says) as caught:
        load(tmp_path, ("dev",))
    assert "download" not in str(caught.value) and "\n" not in str(caught.value)


DAMAGE = (b"", b'"', b"[", b"\xff", b"\n", b"\0", b"9" * 5000, b",")


@pytest.mark.parametrize("name", ["dev.json", "dev.jsonl", "dev.csv", "dev.csv.gz", "tables.json"])
def test_damaged_files_are_read_or_refused(tmp_path, name):
    make_database(tmp_path / "database" / "pets.sqlite", PETS)
    make(tmp_path)
    records = [GOLD, GOLD | {"question": 'Name, please: "all",\nof thém'}]
    if name != "tables.json":
        text = {"dev.json": json.dumps(records), "dev.jsonl": "\n".join(map(json.dumps, records))}.get(name) or table(records)
        (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    else:
        (tmp_path / "dev.json").write_text(json.dumps(records))
    whole, rng, refused = (tmp_path / name).read_bytes(), random.Random(0), 0
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(damaged) + 1)
            damaged[place : place + rng.choice((0, 1, 9))] = rng.choice(DAMAGE)
        (tmp_path / name).write_bytes(damaged)
        try:
            load(tmp_path, ("dev",))
        except UserError:
            refused += 1
    assert 0 < refused < 200
