"""Which cells of a database stand in a prompt."""

import sqlite3
import time
from contextlib import closing

import pytest
from test_prompt import make_schema

from data.benchmark import sample, spider
from data.benchmark.prompt import fit, prompt
from data.benchmark.values import VALUES_PER_COLUMN, Values
from data.common.errors import UserError

CREATE = """
CREATE TABLE singer (name TEXT, Country TEXT, sex TEXT, age INTEGER);
CREATE TABLE "odd ""table" (note TEXT, PRIMARY KEY (note)) WITHOUT ROWID;
"""
SINGERS = [("Joe Sharp", "France", "M", 3), ("Rose", "United States", "F", 4), ("Rose White", "Netherlands", "F", 5)]
SINGERS += [("Name", "States", "F", 6), ("O'Hara", "New\nYork", "M", 7), ("All", "FRANCE", "I", 8), ("x" * 65, None, b"M", 9)]


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "music.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(CREATE)
        connection.executemany("INSERT INTO singer VALUES (?, ?, ?, ?)", SINGERS)
        connection.execute('INSERT INTO "odd ""table" VALUES (?)', ("Jazz",))
        connection.commit()
    return path


@pytest.fixture
def mentioned(database):
    schema = spider.schema_of_database(database)
    values = Values(database, schema)
    return lambda question: [(schema.columns[v["column"]][1], v["text"]) for v in values.mentioned(question)]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Who is from France?", [("Country", "France"), ("Country", "FRANCE")]),
        ("who is from FRANCE", [("Country", "FRANCE"), ("Country", "France")]),
        ("Is joe-sharp in the netherland?", [("name", "Joe Sharp"), ("Country", "Netherlands")]),
        ("How old is Rose White?", [("name", "Rose White")]),  # not Rose, which is within
        ("Is Rose older than Rose White?", [("name", "Rose White"), ("name", "Rose")]),
        ("Are any in the United States?", [("Country", "United States")]),
        ("What is the name of all?", []),  # a column's name, and a word that questions have
        ("How many of sex F and m are there, and do I count?", [("sex", "F")]),
        ("Which notes say jazz?", [("note", "Jazz")]),
        ("Did O'Hara come from New York?", [("name", "O'Hara"), ("Country", "New\nYork")]),
        ("x" * 65, []),
        ("", []),
        ("?! '\"", []),
    ],
)
def test_what_a_question_mentions(mentioned, question, expected):
    assert mentioned(question) == expected


@pytest.mark.parametrize(
    ("question", "cells"),
    [
        ("北京公司有多少订单?", ["北京公司"]),
        ("上海市的女客户有几个", ["上海市", "女"]),
        ("東京都の顧客は何人ですか", ["東京都"]),
        ("なまえがさくらの人", ["さくら"]),
        ("서울에 있는 고객은 몇 명입니까?", ["서울"]),
        ("มีลูกค้ากี่คนในกรุงเทพมหานคร", ["กรุงเทพมหานคร"]),
        ("ABC公司和ＡＢＣ有限公司的地址", ["ABC公司", "ABC有限公司"]),
        ("Сколько заказов в Москва и ИСТАНБУЛ?", ["Истанбул", "Москва"]),
        ("İstanbul und MÜNCHEN, STRASSE", ["München", "Straße", "İstanbul"]),
        ("中华人民共和国国家发展和改革委员会的订单", ["中华人民共和国国家发展和改革委员会"]),
        ("有多少人在大公司?", []),
        ("How many orders?", []),
    ],
)
def test_values_in_any_script(tmp_path, question, cells):
    texts = (
        "北京公司 上海市 女 东京 東京都 さくら 서울 กรุงเทพมหานคร ABC公司 ABC有限公司 Москва Истанбул München İstanbul Straße"
    )
    with closing(sqlite3.connect(tmp_path / "own.sqlite")) as connection:
        # each in a column of its own, which shows few
        for i, text in enumerate([*texts.split(), "人", "多少", "中华人民共和国国家发展和改革委员会", "中" * 40]):
            connection.execute(f"CREATE TABLE t{i} (x{i})")
            connection.execute(f"INSERT INTO t{i} VALUES (?)", (text,))
        connection.commit()
    values = Values(tmp_path / "own.sqlite", spider.schema_of_database(tmp_path / "own.sqlite"))
    assert sorted(value["text"] for value in values.mentioned(question)) == sorted(cells)


def test_large_columns_without_spaces_are_read_and_searched_fast(tmp_path):
    with closing(sqlite3.connect(tmp_path / "large.sqlite")) as connection:
        connection.execute("CREATE TABLE firm (name TEXT)")
        rows = ((f"{chr(0x4E00 + i % 9000)}{chr(0x4E00 + i // 9 % 9000)}{chr(0x4E00 + i % 7919)}公司",) for i in range(100_000))
        connection.executemany("INSERT INTO firm VALUES (?)", rows)
        connection.commit()
    began = time.process_time()
    values = Values(tmp_path / "large.sqlite", spider.schema_of_database(tmp_path / "large.sqlite"))
    assert time.process_time() - began < 10
    name = f"{chr(0x4E00 + 4000)}{chr(0x4E00 + 4000 // 9)}{chr(0x4E00 + 4000)}公司"
    began = time.process_time()
    for _ in range(1000):
        assert values.mentioned(f"请问{name}有多少订单?") == [dict(column=1, text=name)]
    assert time.process_time() - began < 5


def test_a_column_shows_few_values_whatever_the_question(mentioned):
    found = mentioned("France, United States, Netherlands, New York, States, Rose, Joe Sharp, O'Hara")
    assert [name for name, _ in found] == ["name"] * VALUES_PER_COLUMN + ["Country"] * VALUES_PER_COLUMN


def test_values_stand_beside_their_column_as_sql_writes_them(database):
    schema = spider.schema_of_database(database)
    values = Values(database, schema).mentioned("Did O'Hara leave New York for France?")
    assert "columns = [*,name ( 'O''Hara' ),Country ( 'New York' , 'France' ),sex,age]" in prompt("?", schema, values)


def test_a_column_with_a_value_leaves_as_late_as_one_that_is_named():
    schema = make_schema({"shop": [*(f"c{i}" for i in range(30)), "town"]}, [], [])
    values = [dict(column=31, text="Rome")]
    for budget in range(len(prompt("Which?", schema, values)), 0, -11):
        text, _ = fit("Which?", schema, values, budget, len)
        assert "town ( 'Rome' )" in text or "c0" not in text


def test_a_schema_that_names_what_the_database_lacks(database):
    schema = make_schema({"singer": ["Country", "gone"], "lost": ["Country"]}, [], [])
    assert Values(database, schema).mentioned("From France, gone?")[0] == dict(column=1, text="France")


def test_cells_of_views_and_virtual_tables_are_found(database):
    script = """CREATE VIEW home AS SELECT upper(Country) AS place FROM singer; CREATE VIRTUAL TABLE note USING fts5(said);
                INSERT INTO note VALUES ('loud');
                CREATE VIEW endless AS WITH RECURSIVE a(x) AS (SELECT 'loud' UNION ALL SELECT x FROM a) SELECT x FROM a;"""
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(script)
    schema = spider.schema_of_database(database)
    found = Values(database, schema).mentioned("Are those from the Netherlands loud?")
    assert [(schema.columns[v["column"]][1], v["text"]) for v in found] == [
        *(("Country", "Netherlands"), ("place", "NETHERLANDS"), ("said", "loud")),
    ]


def test_a_broken_database_is_named(tmp_path):
    (tmp_path / "bad.sqlite").write_bytes(b"SQLite format 3\0" + b"\1" * 5000)
    with pytest.raises(UserError, match="bad.sqlite cannot be read"):
        Values(tmp_path / "bad.sqlite", make_schema({"a": ["b"]}, [], []))


def test_examples_have_values_only_where_they_are_asked_for():
    plain, full = (spider.load(sample.build(), values=values) for values in (False, True))
    assert not any(example.values for split in plain.splits.values() for example in split)
    share = sum(bool(example.values) for example in full.splits["dev"]) / len(full.splits["dev"])
    assert share > 0.2 and full.summary()["sha256"] != plain.summary()["sha256"]
    assert full.splits == spider.load(sample.build(), values=True).splits


def test_a_question_costs_no_scan_of_the_database(tmp_path):
    """Ten thousand questions to a hundred thousand cells: a scan for each would take hours."""
    with closing(sqlite3.connect(tmp_path / "large.sqlite")) as connection:
        connection.execute("CREATE TABLE people (name TEXT)")
        connection.executemany("INSERT INTO people VALUES (?)", ((f"Person {i} of many",) for i in range(100_000)))
        connection.commit()
    values = Values(tmp_path / "large.sqlite", spider.schema_of_database(tmp_path / "large.sqlite"))
    began = time.process_time()
    found = [values.mentioned(f"Where does person {i} of many live?")[0]["text"] for i in range(10_000)]
    assert found == [f"Person {i} of many" for i in range(10_000)] and time.process_time() - began < 60
