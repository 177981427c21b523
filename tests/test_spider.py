"""Reading a directory in Spider's layout, what is said about a bad one, and the schema of any database."""

import errno
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.benchmark.prompt import prompt
from data.benchmark.schema import Benchmark, Example, Schema
from data.benchmark.spider import inspect, load, parse_schema, schema_of_database, tables_entry
from data.common.errors import UserError, exit_on_user_error

ROOT = Path(__file__).resolve().parent.parent
PETS = "CREATE TABLE pet (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO pet VALUES (1, 'Rex'), (2, 'Tom');"
GOLD = {"db_id": "pets", "question": "How many pets are there?", "query": "SELECT count(*) FROM pet"}


def make_database(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return path


def write(path: Path, content: object) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    database = make_database(root / "database/pets/pets.sqlite", PETS)
    write(root / "tables.json", [tables_entry(database, "pets")])
    for name, count in (("train_spider", 3), ("train_others", 2), ("dev", 1)):
        write(root / f"{name}.json", [GOLD | {"question": f"{name} {i}?"} for i in range(count)])
    return root


@pytest.fixture
def spider(whole, tmp_path) -> Path:
    """A whole directory with one database, `pets`, for a test to damage."""
    return Path(shutil.copytree(whole, tmp_path / "spider"))


def complaint(directory: Path, *splits: str, **options) -> str:
    with pytest.raises(UserError) as caught:
        load(directory, *([splits] if splits else []), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------------ loading


def test_a_directory_is_read(spider):
    benchmark = load(spider)
    assert {split: len(examples) for split, examples in benchmark.splits.items()} == {"train": 3, "dev": 1}
    example = benchmark.splits["train"][2]
    assert (example.index, example.db_id, example.question, example.sql) == (2, "pets", "train_spider 2?", GOLD["query"])
    assert benchmark.schemas["pets"].tables == ("pet",)
    assert benchmark.databases("pets", "dev") == [spider / "database/pets/pets.sqlite"]


def test_train_others_comes_after_train_and_is_counted_on(spider):
    train = load(spider, train_others=True).splits["train"]
    assert [example.question for example in train[2:4]] == ["train_spider 2?", "train_others 0?"]
    assert [example.index for example in train] == list(range(5))


def test_only_the_splits_that_are_asked_for_are_read(spider):
    (spider / "train_spider.json").unlink()
    assert set(load(spider, ("dev",)).splits) == {"dev"}


def test_the_test_split_has_names_of_its_own(spider):
    (spider / "dev.json").rename(spider / "test.json")
    (spider / "tables.json").rename(spider / "test_tables.json")
    (spider / "database").rename(spider / "test_database")
    benchmark = load(spider, ("test",))
    assert len(benchmark.splits["test"]) == 1
    assert benchmark.databases("pets", "test") == [spider / "test_database/pets/pets.sqlite"]


def test_the_databases_of_a_test_suite_follow_the_first(spider):
    for name in ("a", "z"):
        make_database(spider / f"database/pets/{name}.sqlite", PETS)
    assert [path.name for path in load(spider).databases("pets", "dev")] == ["pets.sqlite", "a.sqlite", "z.sqlite"]


def test_the_summary_tells_different_data_apart(spider):
    before = load(spider).summary()
    assert before == load(spider).summary()
    assert before["examples"] == {"train": 3, "dev": 1} and before["directory"] == str(spider)
    assert load(spider, full_names=True).summary()["sha256"] != before["sha256"]
    write(spider / "dev.json", [GOLD | {"question": "Another?"}])
    assert load(spider).summary()["sha256"] != before["sha256"]


def test_the_summary_stays_from_version_to_version():
    """Or runs of before could not be resumed."""
    shop = Schema("shop", ("item",), ((-1, "*"), (0, "id")), ("text", "number"), (1,), ())
    example = Example(0, "shop", "How many?", "SELECT count(*) FROM item")
    summary = Benchmark(Path("x"), {"shop": shop}, {"train": [example]}, {}).summary()
    assert summary["sha256"] == "708d433aa4ff0d70cbd4756b46862f9e17100adf36a1356ff021eedbcc9a209b"


def test_text_in_a_database_that_is_not_utf_8_stops_nothing(spider):
    make_database(spider / "database/pets/pets.sqlite", "INSERT INTO pet VALUES (3, CAST(x'ff41' AS TEXT));")
    assert len(load(spider).splits["train"]) == 3
    assert schema_of_database(spider / "database/pets/pets.sqlite").tables == ("pet",)


# ----------------------------------------------------------------------------------------------------------- bad files


def test_no_directory(tmp_path):
    assert complaint(tmp_path / "none").startswith(f"data directory {tmp_path / 'none'} does not exist: get Spider from")


def test_a_file_in_the_place_of_the_directory(tmp_path):
    write(tmp_path / "file", "")
    assert "does not exist" in complaint(tmp_path / "file")


@pytest.mark.parametrize("name", ["train_spider.json", "dev.json", "tables.json"])
def test_a_missing_file(spider, name):
    (spider / name).unlink()
    assert complaint(spider).startswith(f"{spider / name} is missing: get Spider from")


def test_a_missing_train_others(spider):
    (spider / "train_others.json").unlink()
    assert "train_others.json is missing" in complaint(spider, train_others=True)
    load(spider)


@pytest.mark.parametrize("name", ["train_spider.json", "dev.json", "tables.json"])
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[{}", b'[{"db_id": }]', b"[\n" * 200_000, b'{"a":' * 200_000, b"[1" + b"0" * 10_000 + b"]"),
        *(b'[{"db_id": "\xff"}]', "[]".encode("utf-16"), b"\x00" * 100, b"SQLite format 3\x00", b"\x1f\x8b"),
    ],
    ids=lambda content: repr(content[:12]),
)
def test_a_malformed_file(spider, name, content):
    (spider / name).write_bytes(content)
    message = complaint(spider)
    remedy = "--make DIR makes it of your own databases" if name == "tables.json" else "give a list of objects with db_id"
    assert re.match(f"{spider / name} is not (valid JSON|UTF-8|a whole gzip file)", message) and remedy in message


@pytest.mark.parametrize("name", ["train_spider.json", "tables.json"])
@pytest.mark.parametrize("content", ["{}", "null", "1", '"text"', "[1]", "[[]]", '[{"db_id": "pets"}, null]', "NaN"])
def test_json_of_another_shape(spider, name, content):
    write(spider / name, content)
    assert complaint(spider).startswith(f"{spider / name} does not hold a list of JSON objects: ")


def test_a_directory_in_the_place_of_a_file(spider):
    (spider / "dev.json").unlink()
    (spider / "dev.json").mkdir()
    assert complaint(spider).startswith(f"{spider / 'dev.json'} cannot be read (it is no regular file)")


@pytest.mark.parametrize("name", ["train_spider.json", "dev.json"])
def test_an_empty_split(spider, name):
    write(spider / name, "[]")
    assert complaint(spider).startswith(f"{spider / name} holds no examples: get Spider from")


@pytest.mark.parametrize("key", ["db_id", "question", "query"])
@pytest.mark.parametrize("value", [None, "", " \n", 5, ["text"], {}])
def test_an_example_without_what_it_needs(spider, key, value):
    write(spider / "train_spider.json", [GOLD, GOLD | {key: value}])
    assert complaint(spider) == f"{spider / 'train_spider.json'}: example 1 has no {key}: add it or remove the example"


def test_an_example_whose_key_is_missing(spider):
    write(spider / "dev.json", [{"db_id": "pets", "question": "How many?"}])
    assert "dev.json: example 0 has no query: add it" in complaint(spider)


@pytest.mark.parametrize("key", ["question", "query"])
def test_an_example_with_half_a_character(spider, key):
    """JSON can hold half a surrogate pair, which neither a tokenizer nor a file takes."""
    write(spider / "dev.json", [GOLD | {key: "SELECT '\ud83d'"}])
    assert f"dev.json: example 0: half a character in its {key}" in complaint(spider)


def test_characters_beyond_the_basic_plane_are_welcome(spider):
    write(spider / "dev.json", [GOLD | {"question": "How many \U0001f436?"}])
    assert load(spider).splits["dev"][0].question == "How many \U0001f436?"


def test_an_example_of_an_unknown_database(spider):
    write(spider / "dev.json", [GOLD, GOLD | {"db_id": "birds"}])
    message = complaint(spider)
    assert message.startswith(f"{spider / 'dev.json'}: example 1 names the database birds, which the tables file lacks: add")


# ------------------------------------------------------------------------------------------------------------ bad schemas


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"primary_keys": [3]}, "refers to a table or column it lacks"),
        ({"primary_keys": [0]}, "refers to a table or column it lacks"),
        ({"primary_keys": [-1]}, "refers to a table or column it lacks"),
        ({"primary_keys": [[1, 99]]}, "refers to a table or column it lacks"),
        ({"foreign_keys": [[1, 3]]}, "refers to a table or column it lacks"),
        ({"foreign_keys": [[-2, 1]]}, "refers to a table or column it lacks"),
        ({"column_names_original": [[-1, "*"], [0, "id"], [1, "name"]]}, "refers to a table or column it lacks"),
        ({"column_names_original": [[-1, "*"], [-1, "id"], [0, "name"]]}, "refers to a table or column it lacks"),
        ({"column_names_original": [[0, "id"], [0, "name"]], "primary_keys": []}, "refers to a table or column it lacks"),
        ({"column_names_original": [], "primary_keys": []}, "refers to a table or column it lacks"),
        ({"foreign_keys": [[1]]}, "is malformed"),
        ({"foreign_keys": [1]}, "is malformed"),
        ({"foreign_keys": None}, "is malformed"),
        ({"foreign_keys": [[1, float("inf")]]}, "is malformed"),
        ({"foreign_keys": [[1, float("nan")]]}, "is malformed"),
        ({"primary_keys": ["id"]}, "is malformed"),
        ({"primary_keys": [[[1]]]}, "is malformed"),
        ({"primary_keys": 1}, "is malformed"),
        ({"column_names_original": [[-1, "*", 0]]}, "is malformed"),
        ({"table_names_original": 1}, "is malformed"),
        ({"table_names_original": ["\ud800"]}, "is malformed"),
        ({"column_types": 5}, "is malformed"),
    ],
)
def test_a_schema_that_contradicts_itself_or_is_malformed(spider, change, what):
    (entry,) = json.loads((spider / "tables.json").read_text())
    write(spider / "tables.json", [entry | change])
    message = complaint(spider)
    assert message.startswith(f"{spider / 'tables.json'}: the entry pets {what}") and "download" in message


@pytest.mark.parametrize("key", ["table_names_original", "column_names_original", "primary_keys", "foreign_keys"])
def test_a_schema_that_lacks_a_part(spider, key):
    (entry,) = json.loads((spider / "tables.json").read_text())
    del entry[key]
    write(spider / "tables.json", [entry])
    assert f"tables.json: the entry pets lacks '{key}'" in complaint(spider)


@pytest.mark.parametrize("kinds", [None, [], ["text", "number"], ["text"] * 9])
def test_types_that_are_not_there_are_not_needed(spider, kinds):
    before = load(spider).schemas["pets"]
    (entry,) = json.loads((spider / "tables.json").read_text())
    write(spider / "tables.json", [entry | {"column_types": kinds}])
    schema = load(spider).schemas["pets"]
    assert schema == replace(before, column_types=schema.column_types) and len(schema.column_types) == len(schema.columns)
    del entry["column_types"]
    write(spider / "tables.json", [entry])
    assert load(spider).schemas["pets"].column_types == ("text",) * len(schema.columns)


@pytest.mark.parametrize("query", [";", " ; ;", "-- SELECT 1", "/* SELECT 1 */ ;", "/* SELECT 1"])
def test_a_query_of_comments_alone(spider, query):
    write(spider / "dev.json", [GOLD, GOLD | {"query": query}])
    what = "has a query of comments and semicolons alone: write its SQL or remove the example"
    assert complaint(spider) == f"{spider / 'dev.json'}: example 1 {what}"


def mutated(value: object, rng: random.Random) -> object:
    """JSON with something in it lost, doubled, of another kind or far too large."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
        copied = dict(value) if isinstance(value, dict) else list(value)
        key = rng.choice(list(copied) if isinstance(copied, dict) else range(len(copied)))
        if rng.random() < 0.15:
            del copied[key]
        else:
            copied[key] = mutated(copied[key], rng)
        return copied * 2 if isinstance(copied, list) and rng.random() < 0.1 else copied
    odd = [
        None,
        True,
        -1,
        0,
        10**30,
        1.5,
        float("nan"),
        float("inf"),
        "",
        ";",
        "\0",
        "\ud800",
        "..",
        "a\nb",
        [],
        {},
        [[]],
        [None],
    ]
    return rng.choice([*odd, [value], {"x": value}, str(value)])


@pytest.mark.parametrize("name", ["tables.json", "dev.json"])
def test_500_mutated_files_are_read_or_refused_in_one_line(spider, name):
    rng, content = random.Random(name), json.loads((spider / name).read_text())
    raw, refused = (spider / name).read_bytes(), 0
    for number in range(500):
        if number % 5:
            text = json.dumps(mutated(mutated(content, rng), rng)).encode()
        else:
            place = rng.randrange(len(raw))
            text = raw[:place] + bytes(rng.choices(range(256), k=rng.randint(0, 3))) + raw[place + rng.randint(0, 40) :]
        (spider / name).write_bytes(text)
        try:
            for example in (benchmark := load(spider, plain_sql=True, values=True)).splits["dev"]:
                assert prompt(example.question, benchmark.schemas[example.db_id], example.values)
        except UserError as error:
            assert str(spider) in str(error)
            refused += 1
    assert 100 < refused < 500


@pytest.mark.parametrize("db_id", ["../pets", "/etc/pets", "..", "", "a\0b", "a\nb", "a\tb", "\ud800", None, ["pets"], 5])
def test_a_db_id_that_names_no_folder(spider, db_id):
    (entry,) = json.loads((spider / "tables.json").read_text())
    write(spider / "tables.json", [entry | {"db_id": db_id}])
    with pytest.raises(UserError, match="(?s)tables.json: the entry .* not the name of a folder"):
        load(spider)


# ---------------------------------------------------------------------------------------------------------- bad databases


def test_a_missing_database(spider):
    path = spider / "database/pets/pets.sqlite"
    path.unlink()
    assert complaint(spider).startswith(f"{path} is missing: name a SQLite file, or copy database/ beside the questions")


@pytest.mark.parametrize("content", [b"", b"SQLite", b"SQLite format 2\0", b"<html>Not found</html>", b"\0" * 4096])
def test_a_file_that_is_no_database(spider, content):
    path = spider / "database/pets/pets.sqlite"
    path.write_bytes(content)
    assert complaint(spider) == f"{path} is not a SQLite database: copy it again"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_what_is_no_regular_file_is_not_read(spider, make):
    path = spider / "database/pets/pets.sqlite"
    path.unlink()
    make(path)
    assert complaint(spider).startswith(f"{path} cannot be read (not a regular file)")
    assert inspect(spider)[0] == "train: 3 examples, 1 databases: 1 unreadable"


def test_a_directory_in_the_place_of_a_database(spider):
    path = spider / "database/pets/pets.sqlite"
    path.unlink()
    path.mkdir()
    assert complaint(spider).startswith(f"{path} cannot be read (Is a directory)")


# --------------------------------------------------------------------------------------------- the schema of a database


def introspect(tmp_path: Path, script: str) -> Schema:
    return schema_of_database(make_database(tmp_path / "some.sqlite", script))


def named(schema: Schema, columns: tuple) -> list[str]:
    return [f"{schema.tables[schema.columns[c][0]]}.{schema.columns[c][1]}" for c in columns]


def pairs(schema: Schema) -> list[tuple[str, str]]:
    return [tuple(named(schema, pair)) for pair in schema.foreign_keys]


def test_tables_and_columns_in_the_order_of_their_making(tmp_path):
    schema = introspect(tmp_path, "CREATE TABLE b (y, x); CREATE TABLE a (w INT);")
    assert schema.db_id == "some" and schema.tables == ("b", "a")
    assert schema.columns == ((-1, "*"), (0, "y"), (0, "x"), (1, "w"))
    assert len(schema.column_types) == len(schema.columns)


def test_indices_and_the_tables_of_sqlite_itself_are_no_tables(tmp_path):
    script = """CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT, b); INSERT INTO a (b) VALUES (1);
                CREATE INDEX i ON a (b); CREATE TABLE sqliteish (c);"""
    assert introspect(tmp_path, script).tables == ("a", "sqliteish")


def test_views_are_tables(tmp_path):
    script = """CREATE TABLE a (id INTEGER PRIMARY KEY, b TEXT); CREATE VIEW v AS SELECT b, count(*) AS "n n" FROM a GROUP BY b;
                CREATE VIEW w (x) AS SELECT id FROM a; CREATE TABLE c (y);"""
    schema = introspect(tmp_path, script)
    assert schema.tables == ("a", "v", "w", "c") and named(schema, schema.primary_keys) == ["a.id"]
    assert schema.columns[3:] == ((1, "b"), (1, "n n"), (2, "x"), (3, "y"))
    assert 'Table v, columns = [*,b,"n n"]' in prompt("?", schema)


def test_virtual_tables_are_tables_and_what_they_consist_of_is_not(tmp_path):
    script = """CREATE VIRTUAL TABLE note USING fts5(title, text); CREATE VIRTUAL TABLE old USING fts4(text);
                CREATE VIRTUAL TABLE area USING rtree(id, low, high);
                CREATE TABLE note_lines (x); CREATE TABLE area_code (y);"""
    schema = introspect(tmp_path, script)
    assert schema.tables == ("note", "old", "area", "note_lines", "area_code")
    assert [name for table, name in schema.columns if table < 3] == ["*", "title", "text", "text", "id", "low", "high"]


@pytest.mark.parametrize("split", ["train", "dev"])
def test_what_cannot_be_read_of_a_database_costs_no_more_than_itself(spider, split):
    script = """CREATE VIEW lost AS SELECT x FROM nowhere; CREATE VIEW unknown AS SELECT Area(name) FROM pet;
                CREATE VIEW endless AS WITH RECURSIVE a(x) AS (SELECT 'Rex' UNION ALL SELECT x FROM a) SELECT x FROM a;
                PRAGMA writable_schema = ON;
                INSERT INTO sqlite_master VALUES ('table', 'map', 'map', 0, 'CREATE VIRTUAL TABLE map USING Spatial()');"""
    path = make_database(spider / "database/pets/pets.sqlite", script)
    assert schema_of_database(path).tables == ("pet", "endless")
    (entry,) = json.loads((spider / "tables.json").read_text())
    entry["table_names_original"] += ["map", "endless"]
    entry["column_names_original"] += [[1, "x"], [2, "x"]]
    entry["column_types"] += ["text", "text"]
    write(spider / "tables.json", [entry])
    write(spider / "train_spider.json", [GOLD | {"question": "Is Rex there?"}])
    assert load(spider, (split,), values=True).splits[split][0].values == (dict(column=2, text="Rex"),) * (split == "train")
    assert inspect(spider)[0] == "train: 1 examples, 1 databases: 1 present"
    assert not any("UTF-8" in line for line in inspect(spider))


def test_composite_keys_are_flattened(tmp_path):
    schema = introspect(tmp_path, "CREATE TABLE a (x, y, z, PRIMARY KEY (z, x)); CREATE TABLE b (w PRIMARY KEY);")
    assert named(schema, schema.primary_keys) == ["a.x", "a.z", "b.w"]


def test_foreign_keys_in_the_order_of_their_declaration_whatever_the_case_of_names(tmp_path):
    schema = introspect(
        tmp_path,
        """CREATE TABLE Parent (Id PRIMARY KEY, Code UNIQUE);
           CREATE TABLE child (a REFERENCES PARENT(ID), b REFERENCES parent(code), c REFERENCES nowhere(x));""",
    )
    assert pairs(schema) == [("child.a", "Parent.Id"), ("child.b", "Parent.Code")]


def test_a_foreign_key_without_columns_refers_to_the_primary_key(tmp_path):
    schema = introspect(
        tmp_path,
        """CREATE TABLE one (id PRIMARY KEY); CREATE TABLE two (x, y, PRIMARY KEY (y, x)); CREATE TABLE none (z);
           CREATE TABLE child (a REFERENCES one, b, c, d REFERENCES none, FOREIGN KEY (b, c) REFERENCES two);""",
    )
    assert set(pairs(schema)) == {("child.a", "one.id"), ("child.b", "two.y"), ("child.c", "two.x")}


def test_odd_names(tmp_path):
    script = '''CREATE TABLE "order by" ("a b" INT, "it's" TEXT, "say ""hi""" REAL, [x;y] DATE, "é%" BOOLEAN);
                CREATE TABLE "a""b" (c REFERENCES "order by" ("a b"));'''
    schema = introspect(tmp_path, script)
    assert schema.tables == ("order by", 'a"b')
    assert [name for _, name in schema.columns[1:]] == ["a b", "it's", 'say "hi"', "x;y", "é%", "c"]
    assert schema.column_types[1:6] == ("number", "text", "number", "time", "boolean")
    assert pairs(schema) == [('a"b.c', "order by.a b")]


def test_generated_columns_are_columns(tmp_path):
    assert introspect(tmp_path, "CREATE TABLE a (x, y AS (x * 2), z)").columns[1:] == ((0, "x"), (0, "y"), (0, "z"))


def test_a_name_that_is_not_utf_8_stops_nothing(tmp_path):
    path = make_database(tmp_path / "some.sqlite", "CREATE TABLE caf_ (x); CREATE TABLE tea (y_);")
    path.write_bytes(path.read_bytes().replace(b"caf_", b"caf\xe9").replace(b"y_", b"y\xe9"))
    assert schema_of_database(path).tables == ("caf\ufffd", "tea")


def test_a_path_may_hold_what_means_something_in_a_uri(tmp_path):
    path = make_database(tmp_path / "a?mode=rwc#b%20c" / "d e.sqlite", "CREATE TABLE t (x)")
    assert schema_of_database(path).db_id == "d e"


def test_reading_a_schema_writes_nothing(tmp_path):
    path = make_database(tmp_path / "some.sqlite", PETS)
    before = path.read_bytes()
    schema_of_database(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_an_entry_made_of_a_database_reads_back_as_its_schema(tmp_path):
    script = """CREATE TABLE "a b" (x INT, "y z" TEXT, PRIMARY KEY (x, "y z"));
                CREATE TABLE Child_Table (p, q, FOREIGN KEY (p, q) REFERENCES "a b");"""
    path = make_database(tmp_path / "some.sqlite", script)
    entry = json.loads(json.dumps(tables_entry(path, "other")))
    assert parse_schema(entry, path, 0) == schema_of_database(path, "other")
    assert entry["table_names"] == ["a b", "child table"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "is missing"),
        (b"", "is not a SQLite database"),
        (b"SQLite format 3\0", "cannot be read"),
        (b"SQLite format 3\0" + b"\xff" * 4096, "cannot be read"),
    ],
)
def test_a_file_without_a_schema(tmp_path, content, what):
    path = tmp_path / "some.sqlite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        schema_of_database(path)
    assert str(caught.value).startswith(f"{path} {what}")


def test_a_database_without_tables(tmp_path):
    with pytest.raises(UserError, match="some holds no tables"):
        introspect(tmp_path, "CREATE VIEW v AS SELECT * FROM nowhere")


# ------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def damaged(spider) -> Path:
    """`spider` with databases that are empty, missing, and not SQLite, and with gold that fails."""
    path = make_database(spider / "database/void/void.sqlite", "CREATE TABLE pet (id INT);")
    (spider / "database/torn").mkdir()
    (spider / "database/torn/torn.sqlite").write_bytes(b"SQLite format 3\0 and no more")
    (spider / "database/folder/folder.sqlite").mkdir(parents=True)
    make_database(spider / "database/pets/pets.sqlite", "INSERT INTO pet VALUES (3, CAST(x'ff41' AS TEXT));")
    entries = [tables_entry(path, db_id) for db_id in ("pets", "void", "torn", "folder", "gone")]
    write(spider / "tables.json", entries)
    examples = [GOLD | {"db_id": db_id} for db_id in ("pets", "void", "torn", "folder", "gone")]
    examples += [
        GOLD | {"query": sql} for sql in ("SELECT nothing FROM pet", "DROP TABLE pet", "SELECT name FROM pet ; -- all\n;")
    ]
    write(spider / "dev.json", examples)
    return spider


def test_what_a_damaged_directory_holds_is_counted_to_the_end(damaged):
    lines = inspect(damaged)
    assert lines[0] == "train: 3 examples, 1 databases: 1 present"
    start = next(i for i, line in enumerate(lines) if line.startswith("dev"))
    assert lines[start] == "dev: 8 examples, 5 databases: 1 present, 1 empty, 1 missing, 2 unreadable"
    assert lines[start + 1 : start + 4] == ["  empty: void", "  missing: gone", "  unreadable: folder, torn"]
    assert lines[start + 4] == "  text that is not UTF-8, read with replacement characters: pets"
    assert lines[start + 5] == "  gold that runs: 3 of 5"
    assert [line.split(":")[1] for line in lines[start + 6 :]] == [" example 5 (pets)", " example 6 (pets)"]


def test_splits_that_are_not_there_are_passed_over(spider):
    (spider / "train_spider.json").unlink()
    (spider / "train_others.json").unlink()
    assert [line.split(":")[0] for line in inspect(spider) if not line.startswith(" ")] == ["dev"]


def command(*arguments: object) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "data.spider", *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_command_says_what_a_directory_holds(spider):
    done = command(spider)
    assert done.returncode == 0
    assert done.stdout.splitlines()[:2] == ["train: 3 examples, 1 databases: 1 present", "  gold that runs: 3 of 3"]


@pytest.mark.parametrize("arguments", [(), ("none",), (".",), ("a", "b")])
def test_the_command_ends_in_one_line_and_code_2(tmp_path, arguments):
    write(tmp_path / "not_spider.txt", "")
    done = command(*(tmp_path / name for name in arguments))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert len(arguments) != 1 or (str(tmp_path) in done.stderr and "get Spider from" in done.stderr)


def test_an_error_steers_no_terminal(tmp_path):
    done = command(tmp_path / "\x1b[31mred\x9b2J")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"{tmp_path}/\ufffd[31mred\ufffd2J does not exist" in done.stderr and done.stderr.removesuffix("\n").isprintable()


def test_names_of_a_database_steer_no_terminal(spider):
    sql = 'SELECT "a\x1b[2J" FROM "pet\x1b]0;x\x07"'
    write(spider / "dev.json", [GOLD | {"query": sql}])
    done = command(spider)
    assert "no such table: pet\ufffd]0;x\ufffd" in done.stdout and done.stdout.replace("\n", "").isprintable()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_what_an_encoding_lacks_is_replaced(encoding):
    code = "from data.common.errors import exit_on_user_error as run; run(lambda: print('é 北'))"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, env=environment, timeout=60)
    expected = {"ascii": "? ?\n", "utf-8": "é 北\n"}.get(encoding, "é ?\n")
    assert (done.returncode, done.stdout.decode(encoding)) == (0, expected), done


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_has_had_enough_is_no_error(lines):
    code = f"from data.common.errors import exit_on_user_error as run; run(lambda: print('a\\n' * {lines}))"
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait(timeout=60)) == (b"", 1)


def test_an_error_is_one_line_even_where_a_file_put_line_breaks_into_it(capsys):
    def fail() -> None:
        raise UserError("the table a\nb\r\n\tis odd: rename it")

    with pytest.raises(SystemExit) as caught:
        exit_on_user_error(fail)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: the table a b is odd: rename it\n"


def test_a_full_gpu_is_one_line(capsys):
    def fail() -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory.\nTried to allocate 344.00 MiB. GPU 0 has a total capacity of 79.18 GiB of which 298.12 MiB is "
            "free. Including non-PyTorch memory, this process has 78.88 GiB memory in use."
        )

    with pytest.raises(SystemExit) as caught:
        exit_on_user_error(fail)
    said = capsys.readouterr().err
    assert caught.value.code == 2 and said.startswith("error: the GPU's memory is full: for training lower --batch_tokens")
    assert said.endswith("(CUDA out of memory. Tried to allocate 344.00 MiB)\n") and said.count("\n") == 1


ALLOW = dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "allow it, or name another place")
MOVE = dict.fromkeys((errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.EIO), "name another place")


@pytest.mark.parametrize(("number", "remedy"), (ALLOW | MOVE).items())
def test_a_place_that_cannot_be_used_is_one_line(capsys, number, remedy):
    def fail() -> None:
        raise OSError(number, os.strerror(number), "runs/args.json.tmp")

    with pytest.raises(SystemExit) as caught:
        exit_on_user_error(fail)
    said = f"error: runs/args.json.tmp cannot be read or written ({os.strerror(number)}): {remedy}\n"
    assert caught.value.code == 2 and capsys.readouterr().err == said


RANK = """
import os, sys
from data.common.errors import UserError, exit_on_user_error
def fail():
    if int(os.environ["LOCAL_RANK"]) in map(int, sys.argv[1:]):
        raise UserError("the option is wrong: give another")
    sys.stdin.read()
exit_on_user_error(fail)
"""


@pytest.mark.parametrize("failing", [["0", "1"], ["0"], ["1"]])
def test_processes_of_a_run_say_once_what_is_wrong(tmp_path, failing):
    (tmp_path / "rank.py").write_text(RANK)
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(tmp_path / "rank.py"), *failing]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, *words], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        said = process.stderr.read().decode()
    assert said.count("error: the option is wrong: give another\n") == 1, said


def test_ctrl_c_is_one_line(capsys):
    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        exit_on_user_error(fail)
    assert (caught.value.code, capsys.readouterr().err) == (130, "stopped\n")


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(FileNotFoundError):
        exit_on_user_error(lambda: open("nowhere"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        exit_on_user_error(lambda: os.close(10_000))
    with pytest.raises(ZeroDivisionError):
        exit_on_user_error(lambda: print(1 / 0))
    with pytest.raises(RuntimeError, match="shapes"):
        exit_on_user_error(lambda: torch.ones(2) @ torch.ones(3, 4))
