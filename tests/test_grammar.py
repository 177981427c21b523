"""The grammar of a database's statements: what it takes and refuses, also for awkward schemas, and that what it writes runs."""

import random
import re
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace

import pytest
from test_prompt import make_schema

from data.answers import grammar as grammars
from data.answers.grammar import FORMS, Matchers, grammar, outside, outside_line, refusals, spelled, walk_report, walked
from data.benchmark import sample, spider
from data.benchmark.schema import Schema
from data.common.errors import exit_on_user_error
from data.sqlite.execute import TIMED_OUT, Executor

pytest.importorskip("llguidance")

TABLES = {
    "singer": ["id", "Name", "Age", "song_name"],
    "concert": ["id", "Theme", "stadium_id", "Year"],
    "singer_in_concert": ["singer_id", "concert_id"],
}
LINKS = [[9, 1], [10, 5]]


@pytest.fixture(scope="module")
def matchers():
    return Matchers()


@pytest.fixture(scope="module")
def benchmark():
    return spider.load(sample.build())


def schema_of(tables: dict[str, list[str]], full_names: bool = True) -> Schema:
    return replace(make_schema(tables, [], LINKS if tables is TABLES else []), full_names=full_names)


@pytest.fixture(scope="module")
def database():
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript("".join(f"CREATE TABLE {table} ({', '.join(columns)});" for table, columns in TABLES.items()))
        yield connection


TAKEN = [
    "SELECT COUNT(*) FROM singer",
    "SELECT * FROM singer ORDER BY singer.Age DESC LIMIT 3 OFFSET 2",
    "SELECT DISTINCT singer.Name , singer.Age + 1 FROM singer WHERE singer.Age BETWEEN 20 AND 30 AND singer.Name LIKE '%a%'",
    "SELECT singer.Name FROM singer WHERE singer.id NOT IN (SELECT singer_in_concert.singer_id FROM singer_in_concert)",
    "SELECT singer.Name FROM singer WHERE singer.Age > (SELECT AVG(singer.Age) FROM singer) OR NOT singer.Name = 'x'",
    "SELECT singer.Name , COUNT(*) FROM singer_in_concert JOIN singer ON singer_in_concert.singer_id = singer.id "
    "GROUP BY singer.id HAVING COUNT(*) >= 2 ORDER BY COUNT(*) DESC , 1 LIMIT 1",
    "SELECT singer.Name FROM singer LEFT JOIN singer_in_concert ON singer.id = singer_in_concert.singer_id "
    "WHERE singer_in_concert.concert_id IS NULL",
    "SELECT singer.Name FROM singer , concert CROSS JOIN singer_in_concert WHERE singer.id = concert.id",
    "SELECT singer.Name FROM singer JOIN concert USING (id)",
    "SELECT singer.id FROM singer UNION SELECT concert.id FROM concert EXCEPT SELECT concert.stadium_id FROM concert",
    "SELECT * FROM singer INTERSECT SELECT * FROM singer WHERE singer.Age = -1",
    "SELECT COUNT(*) FROM (SELECT singer.Name FROM singer GROUP BY singer.Name)",
    "SELECT T2.Name , T1.Age FROM singer AS T1 JOIN singer AS T2 ON T1.id = T2.Age WHERE T1.Name != T2.Name",
    "SELECT T1.Name , COUNT(*) FROM singer AS T1 JOIN singer_in_concert AS T2 ON T1.id = T2.singer_id GROUP BY T1.id",
    "SELECT Age FROM singer AS T1 JOIN concert AS T2 ON T1.id = T2.id JOIN concert AS T3 ON T3.id = T1.id",
    "SELECT SUM(singer.Age) FROM singer HAVING SUM(singer.Age) > 3",
    "SELECT MAX(singer.Age) - MIN(singer.Age) , ROUND(AVG(singer.Age) , 1) FROM singer",
    "SELECT CAST(singer.Age AS REAL) , CASE WHEN singer.Age > 3 THEN 'old' ELSE 'young' END FROM singer",
    "SELECT (SELECT COUNT(*) FROM singer) - (SELECT COUNT(*) FROM concert)",
    "SELECT COUNT(*) FROM singer WHERE EXISTS (SELECT * FROM concert)",
    # what one's own data often has
    "SELECT strftime('%Y', concert.Year) , COUNT(*) AS n FROM concert GROUP BY STRFTIME('%Y', concert.Year) ORDER BY 2",
    "SELECT concert.id FROM concert WHERE concert.Year >= date('now', '-1 month') AND Date(concert.Year) != 'x'",
    "SELECT julianday('now') - julianday(concert.Year) AS \"days ago\" FROM concert WHERE JULIANDAY('now') - concert.Year > 3",
    "SELECT singer.Name || ' ' || singer.id , trim(singer.Name) || '!' FROM singer ORDER BY singer.Name || singer.id",
    "SELECT CAST(SUM(CASE WHEN singer.Age > 3 THEN 1 ELSE 0 END) AS REAL) * 100 / COUNT(*) FROM singer",
    "SELECT 100.0 * SUM(CASE WHEN singer.Name LIKE 'a%' THEN 1 END) , ROUND(SUM(singer.Age * singer.id), 2) FROM singer",
    "SELECT SUM(CASE WHEN singer.Age IS NULL THEN singer.id ELSE 0 END) , COALESCE(SUM(singer.Age), 0) FROM singer",
    "SELECT CASE WHEN singer.Age < 9 THEN 'a' WHEN singer.Age IN (9 , 10) THEN 'b' ELSE NULL END AS old FROM singer",
    "SELECT ifnull(singer.Name, singer.Age), replace(singer.Name, 'a', 'b') FROM singer ORDER BY substr(singer.Name , 1 , 4)",
    "SELECT nullif(singer.Age , 0) , instr(singer.Name , '@') , CAST(strftime('%m', singer.Age) AS INTEGER) FROM singer",
    "SELECT singer.Name FROM singer GROUP BY substr(singer.Name , 1 , 1) HAVING SUM(CASE WHEN singer.Age = 0 THEN 1 END) > 3",
    "SELECT singer.Name FROM singer ORDER BY CASE WHEN singer.Age IS NULL THEN 1 ELSE 0 END , lower(singer.Name) LIMIT 5 , 10",
    "SELECT singer.Name FROM singer WHERE coalesce(singer.Age , 0) * 2 - 1 > 3 OR 100.0 * singer.Age / singer.id > 5",
    "SELECT singer.Name FROM singer WHERE NOT EXISTS (SELECT 1 FROM concert WHERE concert.id = singer.id)",
    "SELECT singer.Name FROM singer WHERE EXISTS (SELECT * FROM concert JOIN singer_in_concert ON "
    "concert.id = singer_in_concert.concert_id WHERE singer_in_concert.singer_id = singer.id AND concert.Year > 3)",
    "SELECT T1.Name FROM singer AS T1 WHERE NOT EXISTS (SELECT 1 FROM singer AS T2 WHERE T2.Age > T1.Age)",
    "SELECT singer.Name FROM singer WHERE singer.Name IN ('a' , 'O''Neil' , 'Zoë' , '北京 🎤 абв') AND singer.Age - 1 > 2",
]
REFUSED = [
    "SELECT singer.Nam FROM singer",  # no such column
    "SELECT singers.Name FROM singers",  # no such table
    "SELECT concert.Name FROM concert",  # a column of another table
    "SELECT singer.Name FROM concert",  # of a table that is not in FROM
    "SELECT singer.Name FROM singer WHERE concert.Year = 3",
    "SELECT singer.Name FROM singer JOIN concert ON singer.id = singer_in_concert.singer_id",
    "SELECT singer.Name FROM singer JOIN singer ON singer.id = singer.id",  # twice
    "SELECT T1.Name FROM singer AS T2",  # no such alias
    "SELECT T1.Name FROM concert AS T1",
    "SELECT T1.Name FROM singer AS T1 JOIN singer AS T1 ON T1.id = T1.id",
    "SELECT singer.id FROM singer UNION SELECT concert.id , concert.Year FROM concert",  # of unequal width
    "SELECT * FROM singer UNION SELECT concert.id FROM concert",
    "SELECT * FROM singer UNION SELECT * FROM singer_in_concert",
    "SELECT singer.Name FROM singer WHERE singer.id IN (SELECT concert.id , concert.Year FROM concert)",
    "SELECT singer.Name FROM singer WHERE singer.id = (SELECT * FROM concert)",
    "SELECT singer.Name FROM singer WHERE COUNT(*) > 3",  # misused aggregates
    "SELECT singer.Name FROM singer ORDER BY COUNT(*)",
    "SELECT singer.Name FROM singer GROUP BY COUNT(*)",
    "SELECT singer.Name FROM singer HAVING singer.Age > 3",
    "SELECT SUM(COUNT(singer.Age)) FROM singer",
    "SELECT singer.Name FROM singer ORDER BY 2",  # there is one column
    "SELECT singer.id FROM singer ORDER BY singer.id UNION SELECT concert.id FROM concert",
    "SELECT singer.Name FROM singer LIMIT 1 UNION SELECT concert.Theme FROM concert",
    "SELECT singer.Name FROM singer WHERE singer.Age --1",  # a comment
    "SELECT singer.Name AS select FROM singer",  # a word that is no name
    "SELECT singer.Name AS Group FROM singer",
    "SELECT substr(singer.Name) FROM singer",  # too few arguments
    "SELECT singer.Name FROM singer WHERE replace(singer.Name , 'a') = 'b'",
    "SELECT length(singer.Name , 1) FROM singer",  # too many
    "SELECT \u017fubstr(singer.Name , 1) FROM singer",  # a long s is no s
    "SELECT singer.Name FROM singer GROUP BY SUM(singer.Age)",
    "SELECT singer.Name FROM singer WHERE EXISTS (SELECT 1 FROM concert WHERE singer_in_concert.singer_id = singer.id)",
    "SELECT singer.Name FROM singer WHERE EXISTS (SELECT 1 FROM concert GROUP BY concert.id HAVING SUM(singer.Age) > 3)",
    "SELECT singer.Name FROM singer WHERE EXISTS (SELECT 1 FROM singer_in_concert JOIN concert USING (id))",
    "SELECT singer.Name FROM singer WHERE singer.Age = (SELECT singer.Age , concert.id FROM concert)",
    "SELECT singer.Name FROM singer WHERE singer.Name = 'x",  # unfinished
    "SELECT singer.Name FROM",
    "SELECT singer.Name",
    "SELECT COUNT(*)",
    "SELECT singer.Name FROM singer ; DROP TABLE singer",
    "DELETE FROM singer",
    "",
]


@pytest.mark.parametrize("full_names", [True, False])
@pytest.mark.parametrize("sql", TAKEN)
def test_what_runs_is_accepted(matchers, database, sql, full_names):
    database.execute(sql)
    assert matchers.accepted(sql, schema_of(TABLES, full_names)) == (True, len(sql))


@pytest.mark.parametrize("full_names", [True, False])
@pytest.mark.parametrize("sql", REFUSED)
def test_what_is_wrong_is_refused(matchers, sql, full_names):
    assert not matchers.accepted(sql, schema_of(TABLES, full_names))[0]


def test_columns_without_their_table(matchers):
    one, full = schema_of(TABLES, False), schema_of(TABLES, True)
    for sql in (
        "SELECT Name FROM singer WHERE Age > 3",
        "SELECT Theme , Name FROM singer JOIN concert ON singer.id = stadium_id",
    ):
        assert matchers.accepted(sql, one)[0] and not matchers.accepted(sql, full)[0]
    for sql in (
        "SELECT id FROM singer JOIN concert",  # of two tables
        "SELECT Name FROM singer JOIN concert WHERE id = 3",
        "SELECT Theme FROM singer",
        "SELECT Name FROM singer WHERE Theme = 'x'",
        "SELECT Age FROM singer AS T1 JOIN singer AS T2 ON T1.id = T2.id",
    ):
        assert not matchers.accepted(sql, one)[0], sql


def test_names_that_are_to_be_left_out_are(matchers):
    schema = schema_of(TABLES)
    table, column = schema.tables[0], next(name for number, name in schema.columns if number == 0)
    assert table in grammar(schema) and table not in re.findall(r"\w+", grammar(schema, {table}))
    assert column not in re.findall(r"\w+", grammar(schema, {column}))
    one = schema_of({"a": ["x"]})
    with pytest.raises(ValueError, match="has no column that SQL can name and the model's vocabulary can write$"):
        grammar(one, {"x"})
    with pytest.raises(ValueError, match="has no column that SQL can name$"):
        grammar(schema_of({"a": ["line\nbreak"]}))


@pytest.mark.parametrize("text", ["'", "\n", "\t", "\x00", "\x7f", "\x85", "\u2028"])
def test_no_control_character_stands_in_a_text(matchers, text):
    assert not matchers.accepted(f"SELECT singer.Age FROM singer WHERE singer.Name = 'a{text}b'", schema_of(TABLES))[0]


@pytest.mark.parametrize("full_names", [True, False])
@pytest.mark.parametrize(
    "endless",
    [
        " OR Name = 'x'",
        " , Name",
        " + Age",
        " UNION SELECT Age FROM singer",
        "(",
        "x",
        "9",
        " JOIN singer",
        "n",
        " || Name",
        " WHEN Age = 1 THEN 2",
    ],
)
def test_nothing_repeats_for_ever(matchers, endless, full_names):
    starts = {
        " OR Name = 'x'": "SELECT Age FROM singer WHERE Name = 'x'",
        " UNION SELECT Age FROM singer": "SELECT Age FROM singer",
        "(": "SELECT Age FROM singer WHERE ",
        "x": "SELECT Age FROM singer WHERE Name = 'x",
        "9": "SELECT Age FROM singer WHERE Age = 9",
        " JOIN singer": "SELECT Age FROM singer",
        " , Name": "SELECT Name",
        " + Age": "SELECT Age",
        "n": "SELECT Age AS ",
        " || Name": "SELECT Name",
        " WHEN Age = 1 THEN 2": "SELECT CASE",
    }
    sql = starts[endless] + endless * 300
    if full_names:
        sql = sql.replace("Age", "singer.Age").replace("Name", "singer.Name")
    _, taken = matchers.accepted(sql, schema_of(TABLES, full_names))
    assert len(starts[endless]) <= taken < len(sql) - len(endless) * 20


AWKWARD = {
    'or"der': ["group", "a b", 'say "x"', "it's", "[x]", "a,b", "a.b", "1st", "`q`", "%", "a/b\\c"],
    "Größe": ["straße", "名前", "имя", "ok"],
    "名前": ["名前", "count", "END", "cast"],
    "order": ["ok", "OK2", "_x"],
    "cast": ["role", "aid"],
    "empty": [],
}


@pytest.mark.parametrize("full_names", [True, False])
def test_awkward_names(matchers, full_names):
    schema, rng = schema_of(AWKWARD, full_names), random.Random(1)
    with closing(sqlite3.connect(":memory:")) as connection:
        for table, columns in AWKWARD.items():
            quoted = ['"' + name.replace('"', '""') + '"' for name in (table, *(columns or ["hidden"]))]
            connection.execute(f"CREATE TABLE {quoted[0]} ({', '.join(quoted[1:])})")
        for sql in (
            'SELECT "or""der"."say ""x""" FROM "or""der"',
            'SELECT "Größe"."straße" FROM "Größe"',
            "SELECT T1.role FROM cast AS T1",
        ):
            assert matchers.accepted(sql, schema)[0]
        assert matchers.accepted("SELECT COUNT(*) FROM empty", schema)[0]
        assert not matchers.accepted("SELECT COUNT(*) FROM empty WHERE ", schema)[1] >= len("SELECT COUNT(*) FROM empty WHERE ")
        without = "SELECT T5.名前 FROM empty T3 JOIN empty AS T1"  # T5 is not there yet: ON would have nothing to say
        assert len(without) <= matchers.accepted(f"{without} ON T5.名前 = 1", schema)[1] < len(f"{without} ON")
        for _ in range(150):
            sql = matchers.walk(schema, rng)
            connection.execute(sql)  # with no rows


@pytest.mark.parametrize("full_names", [True, False])
def test_quoted_names_agree_with_what_is_learnt(matchers, full_names):
    schema = schema_of(AWKWARD, full_names)
    for sql in (
        'SELECT `A B` , [1st] FROM `or"der` WHERE "GROUP" = "it"',
        'SELECT T1."a b" FROM "or""der" AS T1 JOIN "order" AS T2 ON T1."group" = T2.ok',
        "SELECT Straße , ok FROM Größe",
        'SELECT T2."count" , T1.role FROM cast AS T1 JOIN 名前 AS T2 ON T1.aid = T2.名前',
        'SELECT "count" , MAX(`count`) FROM "名前" WHERE END = 3',
    ):
        assert matchers.accepted(spelled(sql, schema), schema)[0], spelled(sql, schema)


@pytest.mark.parametrize("full_names", [True, False])
@pytest.mark.parametrize("count", [1, 26, 27, 40, 101, 1500])
def test_many_tables(matchers, count, full_names):
    tables = {f"t_{i}": ["id", f"c{i}"] for i in range(count)}
    schema, last = schema_of(tables, full_names), f"t_{count - 1}"
    assert matchers.accepted(f"SELECT {last}.id FROM {last} WHERE {last}.c{count - 1} = 3", schema)[0]
    assert not matchers.accepted(f"SELECT {last}.nothing FROM {last}", schema)[0]
    assert matchers.accepted(f"SELECT T2.id FROM t_0 AS T1 JOIN {last} AS T2 ON T1.id = T2.id", schema)[0] == (count <= 100)
    if count <= 26:
        assert not matchers.accepted("SELECT t_0.id FROM t_0 JOIN t_0", schema)[0]
    assert not matchers.accepted(f"SELECT t_0.id FROM t_0{' JOIN t_0' * 20}", schema)[0]


def test_names_that_are_left_out_or_stand_twice(matchers):
    tables = {"a": ["x", "line\nbreak", "X", "x", ""], "b\x00": ["y"], "c": ["z"]}
    for full_names in FORMS:
        schema = schema_of(tables, full_names)
        assert matchers.accepted("SELECT a.x , a.X FROM a JOIN c", schema)[0]
        assert "break" not in grammar(schema) and "y" not in [name for name in grammar(schema).split("/") if len(name) < 4]
    schema = replace(schema_of({"a": ["x"], "A": ["x"], "b": ["z"]}), full_names=False)
    assert matchers.accepted("SELECT A.x FROM A", schema)[0]


@pytest.mark.parametrize("tables", [{}, {"a": []}, {"a": ["\n"]}, {"a\n": ["x"]}, {"big": [f"c{i}" for i in range(20_001)]}])
def test_a_schema_without_grammar(tables):
    with pytest.raises(ValueError, match="the database .* has ") as caught:
        grammar(schema_of(tables))
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------- the sample


@pytest.mark.parametrize("full_names", [True, False])
def test_the_samples_answers_are_accepted(matchers, benchmark, full_names):
    examples = [example for split in benchmark.splits.values() for example in split]
    assert len({(example.db_id, example.sql) for example in examples}) > 1000
    assert refusals(examples, benchmark.schemas, full_names, matchers) == []


def test_walked_statements_run(matchers, benchmark):
    databases = {benchmark.databases(db_id, "train")[0]: schema for db_id, schema in benchmark.schemas.items()}
    rows = walked(databases, 400, matchers)
    assert [row for row in rows if row[3] not in (None, TIMED_OUT)] == []
    assert len({row[2] for row in rows}) > 300 and {row[1] for row in rows} == set(FORMS.values())
    assert rows[:20] == walked(databases, 20, matchers)
    report = walk_report([*rows, ("db", "full names", "SELECT x", "no such column", "no such column: x")])
    assert report[0].startswith("walked: 400 of 401 statements run (99.75%)") and "SELECT x" in report[1]


def test_a_walk_through_a_single_table_never_comes_to_a_dead_end(matchers):
    """Where a column without alias takes the only table, no alias is left to stand before another column."""
    schema = schema_of({"item": ["id", "name", "price"]}, full_names=False)
    rng = random.Random(0)
    one = "SELECT item.id FROM item WHERE EXISTS (SELECT 1 FROM "  # no further table
    assert not matchers.accepted(one, schema)[1] >= len(one) - len("SELECT 1 FROM ")
    assert all(matchers.walk(schema, rng).lstrip().startswith("SELECT") for _ in range(150))


def run(monkeypatch, capsys, *options: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["data.grammar", *options])
    try:
        exit_on_user_error(grammars.main)
        code = 0
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def test_the_command(monkeypatch, capsys, tmp_path):
    code, out, err = run(monkeypatch, capsys, "--data", "sample", "--walk", "20")
    assert (code, err) == (0, "")
    assert "dev, full names: 300 of 300 gold statements accepted (100.00%)" in out
    assert "train, one spelling: 16,000 of 16,000" in out and "walked: 20 of 20 statements run (100.00%)" in out
    code, out, err = run(monkeypatch, capsys, "--data", str(tmp_path / "nowhere"))
    assert (code, out) == (2, "") and "nowhere does not exist" in err and err.count("\n") == 1
    code, out, err = run(monkeypatch, capsys, "--data", str(tmp_path))
    assert code == 2 and "holds none of" in err
    monkeypatch.setitem(sys.modules, "llguidance", None)
    code, out, err = run(monkeypatch, capsys, "--data", "sample")
    assert code == 2 and "pip install llguidance==1.9.1" in err and err.count("\n") == 1


def test_a_gold_that_is_not_accepted_is_listed(benchmark, matchers):
    example = replace(benchmark.splits["dev"][0], sql="SELECT zero FROM nowhere")
    (refusal,) = refusals([example], benchmark.schemas, True, matchers)
    assert refusal.accepted == "SELECT " and refusal.rest == "zero FROM nowhere"
    with Executor() as executor:
        path = benchmark.databases(example.db_id, "dev")[0]
        assert executor.run([(path, spelled(example.sql, benchmark.schemas[example.db_id]))])[0].error


OUTSIDE = "WITH few AS (SELECT 1)\nSELECT * FROM few"


def test_answers_outside_the_grammar_are_counted(benchmark):
    train = benchmark.splits["train"][:60]
    assert outside(train, benchmark.schemas, full_names=True) == ([], 60)
    some = [replace(example, sql=OUTSIDE) if example.index % 20 == 7 else example for example in train]
    found, looked = outside(some, benchmark.schemas, full_names=True)
    assert sorted(refusal.example.index for refusal in found) == [7, 27, 47] and looked == 60
    assert outside_line(found, 60, 60, "training answers") == (
        "3 of 60 training answers are outside the grammar that answers are held to, "
        "as >>> WITH few AS (SELECT 1) SELECT * FROM few: --no-constrained answers freely"
    )
    unlike = replace(train[0], sql="SELECT zero FROM nowhere")
    (refusal,), _ = outside([unlike], benchmark.schemas)
    assert "3 of 40 gold looked at (of 60) are" in outside_line(found, 40, 60, "gold")
    assert "as SELECT >>> zero FROM nowhere:" in outside_line([refusal], 1, 1, "gold")
    # as they stand they are in another spelling than that of their schemas
    assert outside([replace(train[0], sql="select * from nowhere")], benchmark.schemas)[0]


def test_the_check_ends_in_time_and_sees_every_database_before_all_of_one(benchmark):
    train = benchmark.splits["train"]
    assert outside(train, benchmark.schemas, full_names=True, seconds=0)[1] == 1
    seen = []

    class Watch(dict):
        def __getitem__(self, db_id):
            seen.append(db_id)
            return super().__getitem__(db_id)

    outside(train[::8], Watch(benchmark.schemas), full_names=True, seconds=600)
    assert set(seen[: grammars.TURN * len(benchmark.schemas)]) == set(benchmark.schemas) and len(seen) == len(train) // 8


def test_a_database_without_grammar_has_no_answers_outside_and_neither_has_a_machine_without_llguidance(benchmark, monkeypatch):
    few = [replace(example, sql=OUTSIDE) for example in benchmark.splits["train"][:3]]
    nothing = dict(tables=(), columns=(), foreign_keys=())
    bare = {db_id: replace(schema, **nothing) for db_id, schema in benchmark.schemas.items()}
    assert outside(few, bare) == ([], 3)
    monkeypatch.setattr(grammars, "grammar", lambda schema: "start: nowhere")
    assert outside(few, benchmark.schemas) == ([], 3)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    assert outside(few, benchmark.schemas) == ([], 0)
