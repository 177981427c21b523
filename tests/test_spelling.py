"""SQL in one spelling: what it looks like, that it means the same, and where it is used."""

import json
import sqlite3
import time
from contextlib import closing
from dataclasses import replace

import pytest
from test_prompt import make_schema

from data.answers.score import score, totals
from data.benchmark import sample, spider
from data.benchmark.prompt import prompt, target
from data.benchmark.spelling import plain, qualified

CREATE = """
CREATE TABLE Pets (id, Name, kind, oid, Count, "Full Name");
CREATE TABLE owner (id, name, Town, "end");
CREATE TABLE cast (aid, role);
INSERT INTO Pets VALUES (1, 'Rex', 'dog', 1, 5, 'a'), (2, 'Tom', 'cat', 1, 2, 'b'), (3, 'say "hi"', 'dog', 2, 1, 'c'),
    (4, 'O''Neil', 'bird', 2, 9, 'd');
INSERT INTO owner VALUES (1, 'Ann', 'Rome', 7), (2, 'Bob', 'Oslo', 8), (3, 'Cy', 'Rome', 9);
INSERT INTO cast VALUES (1, 'hero'), (2, 'fool');
"""
TABLES = {
    "Pets": ["id", "Name", "kind", "oid", "Count", "Full Name"],
    "owner": ["id", "name", "Town", "end"],
    "cast": ["aid", "role"],
}
SHOP = make_schema(TABLES, [], [])


@pytest.fixture(scope="module")
def rows():
    """The rows of a statement, or what SQLite says to it."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(CREATE)

        def run(sql: str) -> list | str:
            try:
                return connection.execute(sql).fetchall()
            except sqlite3.Error as error:
                return str(error)

        yield run


SPELLED = {
    "select NAME from PETS": "SELECT Name FROM Pets",
    "select t1.NAME from PETS as t1 where T1.kind = 'dog'": "SELECT Pets.Name FROM Pets WHERE Pets.kind = 'dog'",
    "SELECT T1.name , T2.NAME FROM pets AS T1 JOIN OWNER AS T2 ON T1.oid = T2.id": (
        "SELECT Pets.Name , owner.name FROM Pets JOIN owner ON Pets.oid = owner.id"  # each as its own table writes it
    ),
    "SELECT T1 . name FROM pets AS T1": "SELECT Pets . Name FROM Pets",
    "SELECT NAME , TOWN FROM owner ORDER BY NAME": "SELECT name , Town FROM owner ORDER BY name",  # the table in FROM tells it
    "SELECT NAME FROM pets WHERE oid IN (SELECT ID FROM owner WHERE NAME = 'Ann')": (
        "SELECT Name FROM Pets WHERE oid IN (SELECT id FROM owner WHERE name = 'Ann')"
    ),
    "SELECT T2.NAME FROM owner AS T1 JOIN owner AS T2 ON T1.id = T2.id": (
        "SELECT T2.name FROM owner AS T1 JOIN owner AS T2 ON T1.id = T2.id"
    ),
    "SELECT T1.* FROM pets AS T1 , owner AS T2": "SELECT Pets.* FROM Pets , owner",
    "SELECT a.name FROM pets AS a JOIN owner AS T2 ON a.oid = T2.id": (
        "SELECT Pets.Name FROM Pets JOIN owner ON Pets.oid = owner.id"
    ),
    "SELECT a.name FROM pets a JOIN owner o ON a.oid = o.id": ("SELECT Pets.Name FROM Pets JOIN owner ON Pets.oid = owner.id"),
    # names of results
    "SELECT kind , count(*) AS n FROM pets GROUP BY kind HAVING n > 1 ORDER BY n DESC , kind": (
        "SELECT kind , COUNT(*) AS n FROM Pets GROUP BY kind HAVING COUNT(*) > 1 ORDER BY COUNT(*) DESC , kind"
    ),
    "SELECT CASE WHEN id > 2 THEN 'a' ELSE 'b' END AS half , count(*) FROM pets GROUP BY half ORDER BY half": (
        "SELECT CASE WHEN id > 2 THEN 'a' ELSE 'b' END AS half , COUNT(*) FROM Pets "
        "GROUP BY CASE WHEN id > 2 THEN 'a' ELSE 'b' END ORDER BY CASE WHEN id > 2 THEN 'a' ELSE 'b' END"
    ),
    # a column of that name comes before in GROUP BY, a comparison is no side of another, a set operation has names alone
    "SELECT max(id) AS kind FROM pets GROUP BY kind ORDER BY kind": (
        "SELECT MAX(id) AS kind FROM Pets GROUP BY kind ORDER BY MAX(id)"
    ),
    "SELECT id > 2 AS big FROM pets GROUP BY id HAVING big = 1": "SELECT id > 2 AS big FROM Pets GROUP BY id HAVING big = 1",
    "SELECT id AS n FROM pets UNION SELECT id FROM owner ORDER BY n": (
        "SELECT id AS n FROM Pets UNION SELECT id FROM owner ORDER BY n"
    ),
    "SELECT , AS n ORDER BY n": "SELECT , AS n ORDER BY n",
    # a table joined with itself
    "SELECT T2.name FROM pets AS T1 JOIN pets AS T2 ON T1.id = T2.oid": (
        "SELECT T2.Name FROM Pets AS T1 JOIN Pets AS T2 ON T1.id = T2.oid"
    ),
    # SELECTs within SELECTs
    "SELECT T1.name FROM pets AS T1 WHERE T1.count = (SELECT max(T1.count) FROM pets AS T1)": (
        "SELECT Pets.Name FROM Pets WHERE Pets.Count = (SELECT MAX(Pets.Count) FROM Pets)"
    ),
    "SELECT T1.name FROM pets AS T1 WHERE T1.count = (SELECT max(count) FROM pets) AND T1.id = 4": (
        "SELECT Pets.Name FROM Pets WHERE Pets.Count = (SELECT MAX(Count) FROM Pets) AND Pets.id = 4"
    ),
    'SELECT name FROM pets WHERE oid NOT IN (SELECT T1.id FROM owner AS T1 WHERE T1.town = "Rome")': (
        "SELECT Name FROM Pets WHERE oid NOT IN (SELECT owner.id FROM owner WHERE owner.Town = 'Rome')"
    ),
    "SELECT T1.name FROM pets AS T1 WHERE EXISTS (SELECT 1 FROM owner AS T2 WHERE T2.id = T1.oid)": (
        "SELECT Pets.Name FROM Pets WHERE EXISTS (SELECT 1 FROM owner WHERE owner.id = Pets.oid)"
    ),
    "SELECT T1.name FROM pets AS T1 WHERE T1.count > (SELECT avg(T2.count) FROM pets AS T2 WHERE T2.kind = T1.kind)": (
        "SELECT T1.Name FROM Pets AS T1 WHERE T1.Count > (SELECT AVG(T2.Count) FROM Pets AS T2 WHERE T2.kind = T1.kind)"
    ),
    # statements side by side name their tables anew
    "SELECT T1.name FROM pets AS T1 EXCEPT SELECT T1.name FROM owner AS T1 ORDER BY T1.name": (
        "SELECT Pets.Name FROM Pets EXCEPT SELECT owner.name FROM owner ORDER BY owner.name"
    ),
    "SELECT T1.id FROM pets AS T1 UNION SELECT T2.id FROM pets AS T1 JOIN owner AS T2 ON T1.oid = T2.id": (
        "SELECT Pets.id FROM Pets UNION SELECT owner.id FROM Pets JOIN owner ON Pets.oid = owner.id"
    ),
    # what a subquery is called
    "SELECT T1.name FROM (SELECT name , id FROM pets) AS T1 JOIN owner AS T2 ON T1.id = T2.id": (
        "SELECT T1.Name FROM (SELECT Name , id FROM Pets) AS T1 JOIN owner ON T1.id = owner.id"
    ),
    "SELECT count(*) FROM (SELECT T1.oid FROM pets AS T1 GROUP BY T1.oid)": (
        "SELECT COUNT(*) FROM (SELECT Pets.oid FROM Pets GROUP BY Pets.oid)"
    ),
    # what a column is called
    "SELECT kind , count(*) AS number FROM pets GROUP BY kind ORDER BY number": (
        "SELECT kind , COUNT(*) AS number FROM Pets GROUP BY kind ORDER BY COUNT(*)"
    ),
    "SELECT count(*) AS T1 FROM pets": "SELECT COUNT(*) AS T1 FROM Pets",
    # quotes
    'SELECT id FROM pets WHERE name = "O\'Neil"': "SELECT id FROM Pets WHERE Name = 'O''Neil'",
    "SELECT id FROM pets WHERE name = 'O''Neil'": "SELECT id FROM Pets WHERE Name = 'O''Neil'",
    'SELECT "full name" FROM pets WHERE kind = "dog"': "SELECT \"Full Name\" FROM Pets WHERE kind = 'dog'",
    'SELECT "pets"."name" FROM "pets"': "SELECT Pets.Name FROM Pets",  # quotes where a name needs them
    "SELECT `name` , T1.`full name` FROM `pets` AS T1": 'SELECT Name , Pets."Full Name" FROM Pets',
    "SELECT [count] , name AS [town] FROM pets": 'SELECT "Count" , Name AS [town] FROM Pets',  # or it would be a keyword
    'SELECT id FROM pets WHERE name = "town"': 'SELECT id FROM Pets WHERE Name = "town"',  # no column of this FROM clause
    "SELECT id FROM pets WHERE kind = 'select T1.NAME as t1 (' AND name = \"from PETS\"": (
        "SELECT id FROM Pets WHERE kind = 'select T1.NAME as t1 (' AND Name = 'from PETS'"
    ),
    # keywords that are columns, and functions that are not
    "select count , END from pets join owner on pets.oid = owner.id where count > 1": (
        "SELECT COUNT , end FROM Pets JOIN owner ON Pets.oid = owner.id WHERE COUNT > 1"
    ),
    "select pets.COUNT , count ( count ) from pets": "SELECT Pets.Count , COUNT ( Count ) FROM Pets",
    "select case when id = 1 then 'one' else name end from pets": (
        "SELECT CASE WHEN id = 1 THEN 'one' ELSE Name END FROM Pets"
    ),
    # numbers, operators, other names
    "SELECT id FROM pets WHERE id > 1.5e0 AND id != -2": "SELECT id FROM Pets WHERE id > 1.5e0 AND id != -2",
    "SELECT Nothing.Here FROM Elsewhere": "SELECT Nothing.Here FROM Elsewhere",
    "select coalesce(name, 'x') from pets limit 1": "SELECT coalesce(Name, 'x') FROM Pets LIMIT 1",
    "  select\tname \n FROM pets ": "  SELECT\tName \n FROM Pets ",
    "": "",
    "Sorry , T1.": "Sorry , T1.",
}


@pytest.mark.parametrize(("sql", "expected"), SPELLED.items())
def test_how_it_is_spelled(rows, sql, expected):
    assert plain(sql, SHOP) == expected
    assert plain(expected, SHOP) == expected
    if "no such" not in str(rows(sql)) and "syntax" not in str(rows(sql)):
        assert rows(expected) == rows(sql)


@pytest.mark.parametrize(
    "sql",
    [
        # a table that stands there twice, once without an alias
        "SELECT T1.name FROM pets AS T1 JOIN pets ON T1.id = pets.oid",
        "SELECT T1.name FROM pets AS T1 , pets WHERE T1.id = pets.oid",
        "SELECT T1.name FROM pets AS T1 JOIN pets T2 ON T1.id = T2.oid",
        "SELECT T1.name FROM pets AS T1 WHERE T1.count > (SELECT avg(count) FROM pets WHERE pets.kind = T1.kind)",
        "SELECT name FROM pets WHERE count >= (SELECT max(T1.count) FROM pets AS T1 WHERE T1.kind = pets.kind)",
        # a table hidden by one in between
        "SELECT T1.name FROM pets AS T1 WHERE T1.id IN (SELECT T2.id FROM pets AS T2 WHERE EXISTS "
        "(SELECT 1 FROM owner AS T3 WHERE T3.id = T1.oid AND T2.id = 4))",
        # an alias that means something else within
        "SELECT T1.name FROM pets AS T1 WHERE NOT EXISTS (SELECT 1 FROM owner T1 WHERE T1.id = 4)",
        "SELECT T1.name FROM pets AS T1 WHERE T1.id IN (SELECT T1.id FROM (SELECT id FROM owner WHERE id > 2) AS T1)",
        "SELECT T1.name FROM pets AS T1 WHERE T1.id IN (SELECT T1.id FROM (SELECT id FROM owner WHERE id > 2) T1)",
        "SELECT T1.id , (SELECT count(*) FROM owner AS T1 WHERE T1.id = 1) FROM pets AS T1 ORDER BY (SELECT T1.name)",
        # another table bears its name
        "SELECT T2.name FROM owner AS pets JOIN pets AS T2 ON pets.id = T2.oid",
        "WITH T1 AS (SELECT * FROM owner) SELECT T1.name FROM pets AS T2 JOIN T1 ON T1.id = T2.oid",
        # a column's alias
        "SELECT name AS T1 FROM pets ORDER BY T1",
        "SELECT max(T3) FROM (SELECT id AS T3 FROM pets)",
        'SELECT kind , count(*) AS "n" FROM pets GROUP BY kind ORDER BY "n" DESC , kind',
        'SELECT * FROM (SELECT T1.name AS "who" FROM pets AS T1) WHERE "who" = \'Rex\'',
        'SELECT kind , count(*) AS n FROM pets GROUP BY kind ORDER BY "n" DESC , kind',
        "SELECT max(id) AS kind FROM pets GROUP BY kind HAVING kind > 'a' ORDER BY kind",
        "SELECT DISTINCT kind AS k , id FROM pets WHERE id IN (SELECT id AS k FROM pets ORDER BY k) ORDER BY k , id",
        "SELECT count - 1 AS few FROM pets GROUP BY few HAVING few > 1 AND few < 9 OR few = 0 ORDER BY few * 2 , few",
        "SELECT p.name FROM pets p JOIN owner AS pets ON pets.id = p.oid",
        "SELECT p.name FROM pets p WHERE EXISTS (SELECT 1 FROM pets q WHERE q.oid = p.oid AND q.id < p.id)",
        'SELECT kind , count(*) n FROM pets GROUP BY kind ORDER BY "n" DESC , kind',
        "SELECT T1.id FROM pets AS T1 UNION SELECT T2.id FROM owner AS T2 ORDER BY T1.id",
        # quotes
        "SELECT `T1`.`name` FROM pets AS T1",
        "SELECT [T1].name FROM pets AS T1 WHERE \"T1\".kind = 'dog'",
        'SELECT name FROM pets WHERE "rowid" = 1',
        'SELECT id FROM pets WHERE name = "say ""hi"""',
        'SELECT T1.name FROM [pets] AS T1 JOIN owner AS T2 ON T1.oid = T2.id WHERE T2.town = "Rome"',
        "SELECT T1.name FROM 'pets' AS T1 JOIN \"owner\" AS T2 ON T1.oid = T2.id",
        'SELECT "a".name FROM pets AS "a" WHERE "a".id = 1',
        "SELECT T1.name FROM main.pets AS T1",
        # `cast.role` is no SQL
        "SELECT T2.role , T1.name FROM owner AS T1 JOIN CAST AS T2 ON T1.id = T2.aid",
        "SELECT T1.name FROM (pets AS T1 JOIN owner AS T2 ON T1.oid = T2.id) WHERE T2.name = 'Ann'",
        "SELECT T1.name FROM pets AS T1 NATURAL JOIN owner AS T2",
        "SELECT T1.name FROM pets T1 JOIN owner AS T2 ON T1.oid = T2.id",
    ],
)
def test_it_means_the_same(rows, sql):
    written = plain(sql, SHOP)
    assert isinstance(rows(sql), list)
    assert rows(written) == rows(sql)
    assert plain(written, SHOP) == written
    assert rows(qualified(written, SHOP)) == rows(sql)


OWN = """
CREATE TABLE sale (shop, paid, day, "Owner's code", "order");
CREATE TABLE shop (id, name, Town, "end");
CREATE VIEW totals AS SELECT shop AS Store, sum(paid) AS "Total Paid", max(day) AS latest FROM sale GROUP BY shop;
CREATE TABLE "Ä" (x); CREATE TABLE "ä" (x);
CREATE TABLE "客户" ("客户名称", id);
CREATE TABLE odd ("select", "a b", "c`d", "e]f", "g[h", "Ü", "ü", a, b);
INSERT INTO sale VALUES ('a', 3, 'mon', 'x', 1), ('b', 9, 'tue', 'a  b', 2), ('c', 5, 'Money', NULL, 3);
INSERT INTO shop VALUES ('a', 'Ann', 'Rome', 7), ('b', 'Bob', 'Oslo', 8), ('d', 'Cy', 'Rome', 9);
INSERT INTO "Ä" VALUES (1); INSERT INTO "ä" VALUES (2);
INSERT INTO "客户" VALUES ('北京', 1), ('上海', 2);
CREATE TABLE "ร้าน" ("ลูกค้า"); INSERT INTO "ร้าน" VALUES (3);
INSERT INTO odd VALUES (1, 2, 3, 4, 5, 6, 7, 8, 9);
"""
OWN_TABLES = {
    "sale": ["shop", "paid", "day", "Owner's code", "order"],
    "shop": ["id", "name", "Town", "end"],
    "Ä": ["x"],
    "ä": ["x"],
    "客户": ["客户名称", "id"],
    "ร้าน": ["ลูกค้า"],
    "odd": ["select", "a b", "c`d", "e]f", "g[h", "Ü", "ü", "a", "b"],
}
VIEW = {"totals": ["Store", "Total Paid", "latest"]}


@pytest.mark.parametrize(
    "sql",
    [
        # an alias without AS
        *(f'SELECT shop , paid {name} FROM sale ORDER BY "Money" DESC' for name in ('"Money"', "'Money'", "[Money]", "money")),
        'SELECT shop , sum(paid) "Money" FROM sale GROUP BY shop HAVING "Money" > 4 ORDER BY "Money" DESC',
        "SELECT CASE WHEN paid > 4 THEN 'hi' ELSE 'lo' END \"Level\" , shop FROM sale ORDER BY \"Level\" , shop",
        'SELECT NULL "No one" , 3 "num" , paid FROM sale ORDER BY "num" , "No one" , paid DESC',
        'SELECT shop , row_number() OVER (ORDER BY paid DESC) "Rank" FROM sale ORDER BY "Rank"',
        "SELECT 🐕.shop FROM sale 🐕 WHERE paid > 4 ORDER BY 🐕.shop",
        'SELECT "P".shop FROM sale "P" WHERE paid > 4',
        "SELECT shop FROM sale [my sale] WHERE [my sale].paid > 4 AND paid < 9",
        'SELECT paid "shop" FROM sale ORDER BY shop DESC',
        "SELECT count(*) paid , day FROM sale GROUP BY day ORDER BY paid , day",
        # a view, of the schema or not
        'SELECT "Store" FROM totals WHERE "Total Paid" > 4 AND "Store" = "b"',
        'SELECT T1."Total Paid" FROM totals AS T1 JOIN shop AS T2 ON T1."Store" = T2.id ORDER BY "Total Paid" DESC',
        'SELECT t."Total Paid" FROM totals t WHERE t."latest" = "tue"',
        'SELECT "value" FROM json_each(\'["a", "b"]\') WHERE "value" > "a"',
        # common table expressions
        'WITH best AS (SELECT shop "Who" , paid "How Much" FROM sale) SELECT "Who" FROM best ORDER BY "How Much" DESC',
        'WITH best("Who", "How Much") AS (SELECT shop , paid FROM sale WHERE day = "tue") SELECT "Who" , "How Much" FROM best',
        'WITH sale AS (SELECT name AS "Best One" FROM shop) SELECT "Best One" FROM sale ORDER BY "Best One" DESC',
        # what a SELECT in FROM is called
        "SELECT sale.id , T1.paid FROM (SELECT id FROM shop) sale JOIN sale AS T1 ON T1.shop = sale.id",
        "SELECT id FROM (SELECT 'z' AS id) LEFT JOIN shop USING (id)",
        'SELECT t."Top" FROM (SELECT max(paid) "Top" FROM sale) t',
        # what sorts a set operation
        "SELECT id FROM shop UNION SELECT shop FROM sale ORDER BY id DESC",
        "SELECT T1.shop FROM sale AS T1 UNION ALL SELECT T2.name FROM shop AS T2 ORDER BY shop DESC LIMIT 3",
        # letters of other scripts, whose case SQLite does not fold
        "SELECT T1.x FROM ä AS T1",
        'SELECT Ü , "ü" FROM odd',
        'SELECT 客户名称 FROM "客户" AS T1 WHERE T1."客户名称" = "北京"',
        # quotes
        'SELECT "ลูกค้า" , T1.ลูกค้า FROM "ร้าน" AS T1',
        'SELECT `c``d` , [g[h] , "e]f" , [a b] FROM odd WHERE [select] = 1',
        "SELECT [order] FROM sale WHERE [Owner's code] = 'a  b' OR `Owner's code` = \"x\"",
        'SELECT day FROM sale NOT INDEXED WHERE day GLOB "M*" OR day LIKE "t%" ESCAPE "x"',
        'SELECT day FROM sale WHERE day IN ("Money" , "mon") ORDER BY paid',
    ],
)
@pytest.mark.parametrize("tables", [OWN_TABLES, OWN_TABLES | VIEW], ids=["tables", "view"])
def test_anyones_sql_means_the_same(sql, tables):
    schema = make_schema(tables, [], [])
    written = plain(sql, schema)
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(OWN)
        rows = connection.execute(sql).fetchall()
        program = [step[:7] for step in connection.execute(f"EXPLAIN {sql}")]
        for again in (written, qualified(written, schema)):
            assert connection.execute(again).fetchall() == rows
            assert [step[:7] for step in connection.execute(f"EXPLAIN {again}")] == program
    assert rows and plain(written, schema) == written


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT Name , COUNT(*) FROM Pets WHERE oid > 1", "SELECT Pets.Name , COUNT(*) FROM Pets WHERE Pets.oid > 1"),
        # of two tables the one that has it; where both have, it stays
        (
            "SELECT Town , Pets.Name FROM Pets JOIN owner ON oid = owner.id",
            "SELECT owner.Town , Pets.Name FROM Pets JOIN owner ON Pets.oid = owner.id",
        ),
        ("SELECT name FROM Pets JOIN owner ON Pets.oid = owner.id", "SELECT name FROM Pets JOIN owner ON Pets.oid = owner.id"),
        # each SELECT has its own
        (
            "SELECT Name FROM Pets WHERE oid IN (SELECT id FROM owner WHERE name = 'Ann')",
            "SELECT Pets.Name FROM Pets WHERE Pets.oid IN (SELECT owner.id FROM owner WHERE owner.name = 'Ann')",
        ),
        # as its own table writes it
        ("SELECT name FROM owner WHERE NAME = 'Ann'", "SELECT owner.name FROM owner WHERE owner.name = 'Ann'"),
        ("SELECT Name FROM owner", "SELECT owner.name FROM owner"),
        ('SELECT "Full Name" FROM Pets', 'SELECT Pets."Full Name" FROM Pets'),
        ("SELECT kind AS oid FROM Pets ORDER BY oid", "SELECT Pets.kind AS oid FROM Pets ORDER BY oid"),
        ("SELECT a.Name FROM Pets AS a JOIN owner ON Town", "SELECT a.Name FROM Pets AS a JOIN owner ON Town"),
        ("SELECT kind FROM (SELECT kind FROM Pets)", "SELECT kind FROM (SELECT Pets.kind FROM Pets)"),
    ],
)  # fmt: skip
def test_columns_with_their_tables(rows, sql, expected):
    assert qualified(sql, SHOP) == expected == qualified(expected, SHOP)
    assert rows(expected) == rows(sql)


@pytest.mark.parametrize("sql", ["SELECT name FROM pets AS", "SELECT name FROM pets JOIN shops AS", "SELECT * FROM pets JOIN"])
def test_a_statement_that_is_cut_off_behind_a_table_stays_as_it_is(sql):
    for written in (plain(sql, SHOP), qualified(sql, SHOP)):
        assert written.lower().replace("pets.", "").split() == sql.lower().split()


@pytest.mark.parametrize("quote", ["'", '"', "`"])
def test_a_quote_that_is_not_closed_leaves_a_statement_as_it_is(quote):
    sql = f"select t1.NAME from pets as t1 where kind = {quote}dog or name = 3"
    assert plain(sql, SHOP) == sql


@pytest.mark.parametrize(
    "part",
    ["(", ")", "'", '"', "`", "[", "'\"", "''a", '""a', "AS T1 ", "pets AS T1 ", "FROM pets AS T1 ", "T1.name ", "(SELECT ",
     "(SELECT T1.id FROM ", "(SELECT T1.id FROM pets AS T1 ", " ", "\\", "é", "., "],
)  # fmt: skip
def test_hostile_text_takes_linear_time(part):
    began = time.process_time()
    qualified(plain("SELECT name FROM pets WHERE " + part * 20_000, SHOP), SHOP)
    assert time.process_time() - began < 2


def test_many_aliases_take_linear_time():
    tables = " , ".join(f"a{i} AS T{i}" for i in range(10_000))
    began = time.process_time()
    qualified(plain(f"SELECT T1.x FROM {tables}", SHOP), SHOP)
    assert time.process_time() - began < 2


# ------------------------------------------------------------------------------------------------------- the sample


@pytest.fixture(scope="module")
def benchmark():
    return spider.load(sample.build())


@pytest.mark.parametrize("split", ["train", "dev"])
def test_the_samples_answers_stay_right(benchmark, split):
    different = list({(example.db_id, example.sql): example for example in benchmark.splits[split]}.values())[:1500]
    written = [plain(target(example.sql), benchmark.schemas[example.db_id]) for example in different]
    assert sum(sql != example.sql for sql, example in zip(written, different)) > 0.1 * len(different)
    assert not any("T1" in sql for sql in written if len(set(sql.split()) & {"T1", "T2"}) < 2)
    assert written == [plain(sql, benchmark.schemas[example.db_id]) for sql, example in zip(written, different)]
    full = [qualified(sql, benchmark.schemas[example.db_id]) for sql, example in zip(written, different)]
    assert sum(a != b for a, b in zip(full, written)) > 0.1 * len(different)
    assert totals(score(benchmark, split, full, different, keep_distinct=True))["execution_accuracy"] == 1.0
    figures = totals(score(benchmark, split, written, different, keep_distinct=True))
    assert (figures["n"], figures["execution_accuracy"], figures["exact_match"]) == (len(different), 1.0, 1.0)


def test_training_answers_alone_are_spelled_anew(benchmark):
    written = spider.load(sample.build(), plain_sql=True)
    assert written.splits["dev"] == benchmark.splits["dev"]
    changed = 0
    for old, new in zip(benchmark.splits["train"], written.splits["train"], strict=True):
        assert new.sql == plain(target(old.sql), benchmark.schemas[old.db_id])
        assert (new.index, new.db_id, new.question) == (old.index, old.db_id, old.question)
        changed += new.sql != old.sql
    assert changed > 1000 and written.summary()["sha256"] != benchmark.summary()["sha256"]


def test_full_names_stand_in_training_answers_and_prompts_alike(benchmark):
    written = spider.load(sample.build(), full_names=True)
    assert written.splits["dev"] == benchmark.splits["dev"]
    assert all(schema == replace(benchmark.schemas[db_id], full_names=True) for db_id, schema in written.schemas.items())
    shared = 0
    for old, new in zip(benchmark.splits["train"][::40], written.splits["train"][::40], strict=True):
        schema = written.schemas[new.db_id]
        assert new.sql == qualified(plain(target(old.sql), schema), schema)
        said = prompt(new.question, schema).split()
        shared += sum(piece in said for piece in new.sql.split() if "." in piece and piece[-1].isalnum())
    assert shared > 100
    plainly = spider.load(sample.build(), plain_sql=True)
    assert len({each.summary()["sha256"] for each in (benchmark, plainly, written)}) == 3


def test_an_answer_that_would_mean_something_else_stays_and_is_counted(tmp_path, monkeypatch, capsys):
    """Also where no row tells: the tables are empty but for one."""
    path = tmp_path / "database" / "own" / "own.sqlite"
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OWN + "DELETE FROM sale; CREATE VIRTUAL TABLE said USING fts5(word);")
    entry = spider.tables_entry(path, "own")
    entry["column_names_original"] = [entry["column_names_original"][0], [0, "shop"], [1, "name"]]  # part of what is there
    entry |= dict(column_types=[], primary_keys=[], foreign_keys=[])
    (tmp_path / "tables.json").write_text(json.dumps([entry]))
    lost = [
        'SELECT "paid" FROM sale',
        'select t1."order" from sale as t1 , shop where "Town" = \'Rome\' -- it',
        "SELECT NAME FROM SHOP",
    ]
    kept = [
        "SELECT * FROM sale",
        "select T1.SHOP from sale as T1",
        "select NOTHING from NOWHERE",
        'SELECT word FROM said WHERE said = "x"',
    ]
    examples = [dict(db_id="own", question="?", query=sql) for sql in [*lost, *kept, lost[0]]]
    (tmp_path / "train_spider.json").write_text(json.dumps(examples))
    real = plain
    monkeypatch.setattr(
        "data.benchmark.spelling.plain", lambda sql, schema: real(sql, schema).replace("name FROM shop", "Town FROM shop")
    )
    written = [example.sql for example in spider.load(tmp_path, ("train",), plain_sql=True).splits["train"]]
    assert written[:3] == lost and written[7] == lost[0]
    assert written[3:6] == ["SELECT * FROM sale", "SELECT sale.shop FROM sale", "SELECT NOTHING FROM NOWHERE"]
    assert written[6] == real(kept[3], spider.read_schemas(tmp_path / "tables.json")["own"])
    said = "4 of 8 training answers stay as they are: in one spelling they would mean another thing\n"
    assert capsys.readouterr().out == said
    monkeypatch.setenv("RANK", "1")
    spider.load(tmp_path, ("train",), plain_sql=True)
    assert capsys.readouterr().out == ""


def test_what_is_overfit_is_scored_against_the_answers_as_they_are():
    few, written = (spider.load(sample.build(), overfit=64, plain_sql=option) for option in (False, True))
    assert written.splits["dev"] == few.splits["dev"] == few.splits["train"]
    assert [example.question for example in written.splits["train"]] == [example.question for example in few.splits["dev"]]
    spelled = [plain(target(example.sql), few.schemas[example.db_id]) for example in few.splits["train"]]
    assert [example.sql for example in written.splits["train"]] == spelled != [example.sql for example in few.splits["dev"]]


def test_a_split_without_training_answers_stays(benchmark):
    assert spider.load(sample.build(), ("dev",), plain_sql=True).splits["dev"] == benchmark.splits["dev"]
