"""Spider's exact set match, partial scores and hardness, rule by rule."""

import random
import string

import pytest

from data.benchmark.exact_match import (
    CLAUSES,
    EMPTY,
    MAX_CHARS,
    NotSpiderSql,
    SqlSchema,
    comparable,
    exact,
    hardness,
    parse,
    partial_scores,
    tokens,
)
from data.benchmark.prompt import target
from data.benchmark.schema import Schema

SCHEMA = SqlSchema(
    Schema(
        db_id="music",
        tables=("Singer", "Concert", "Ticket", "Venue"),
        columns=(
            *((-1, "*"), (0, "Singer_ID"), (0, "Name"), (0, "Age"), (0, "Country")),
            *((1, "Concert_ID"), (1, "Singer_ID"), (1, "Venue_ID"), (1, "Year")),
            *((2, "Concert_ID"), (2, "Price"), (2, "value"), (3, "Venue_ID"), (3, "Name")),
        ),
        column_types=("text",) * 14,
        primary_keys=(1, 5, 12),
        foreign_keys=((6, 1), (9, 5), (7, 12)),
    )
)


def match(gold: str, predicted: str) -> bool:
    left = comparable(SCHEMA, gold)
    assert left is not EMPTY, "the gold cannot be read"
    return exact(left, comparable(SCHEMA, predicted))


@pytest.mark.parametrize(
    ("gold", "predicted"),
    [
        ("SELECT name FROM singer", "select  NAME from Singer ;"),
        ("SELECT name FROM singer", "SELECT T1.name FROM singer AS T1"),
        ("SELECT name, age FROM singer", "SELECT age , name FROM singer"),
        ("SELECT name FROM singer WHERE age = 20", "SELECT name FROM singer WHERE age = 'old'"),
        (
            "SELECT name FROM singer WHERE age > 20 AND name = 'x'",
            "SELECT name FROM singer WHERE name = 'y' AND age > 1",
        ),
        ("SELECT name FROM singer WHERE age BETWEEN 1 AND 2", "SELECT name FROM singer WHERE age BETWEEN 8 AND 9"),
        ("SELECT name FROM singer WHERE age = 1", "SELECT name FROM singer WHERE age = singer_id"),
        ("SELECT name FROM singer ORDER BY age LIMIT 1", "SELECT name FROM singer ORDER BY age ASC LIMIT 3"),
        ("SELECT DISTINCT name FROM singer", "SELECT name FROM singer"),
        ("SELECT count(DISTINCT name) FROM singer", "SELECT count(name) FROM singer"),
        ("SELECT value FROM ticket", "SELECT value FROM ticket"),
        (
            "SELECT name FROM singer UNION SELECT name FROM venue WHERE name = 'a'",
            "SELECT name FROM singer UNION SELECT name FROM venue WHERE name = 'b'",
        ),
        (
            "SELECT name FROM singer WHERE age > (SELECT avg(age) FROM singer WHERE age > 3)",
            "SELECT name FROM singer WHERE age > (SELECT avg(age) FROM singer WHERE age > 4)",
        ),
        (  # a foreign key makes its two columns one, and join conditions are not compared
            "SELECT T1.singer_id FROM singer AS T1 JOIN concert AS T2 ON T1.singer_id = T2.singer_id",
            "SELECT T2.singer_id FROM concert AS T2 JOIN singer AS T1 ON T2.venue_id = T1.age",
        ),
        (  # the table of a grouped column is left out, where a foreign key makes it one
            "SELECT count(*) FROM singer AS T1 JOIN concert AS T2 ON T1.singer_id = T2.singer_id GROUP BY T1.singer_id",
            "SELECT count(*) FROM singer AS T1 JOIN concert AS T2 ON T1.singer_id = T2.singer_id GROUP BY T2.singer_id",
        ),
        ("SELECT name FROM singer LIMIT 1", "SELECT name FROM singer LIMIT 1 OFFSET 4"),  # what follows is ignored
    ],
)
def test_these_match(gold, predicted):
    assert match(gold, predicted) and match(predicted, gold)


@pytest.mark.parametrize(
    ("gold", "predicted"),
    [
        ("SELECT name FROM singer", "SELECT name FROM venue"),
        ("SELECT name FROM singer", "SELECT age FROM singer"),
        ("SELECT name FROM singer", "SELECT name, age FROM singer"),
        ("SELECT name FROM singer", "SELECT name FROM singer JOIN venue"),
        ("SELECT max(age) FROM singer", "SELECT min(age) FROM singer"),
        ("SELECT name FROM singer WHERE age > 1", "SELECT name FROM singer WHERE age >= 1"),
        ("SELECT name FROM singer WHERE name LIKE 'a'", "SELECT name FROM singer WHERE name NOT LIKE 'a'"),
        ("SELECT name FROM singer WHERE age > 1 AND age < 5", "SELECT name FROM singer WHERE age > 1 OR age < 5"),
        ("SELECT name FROM singer WHERE age > 1 AND age > 5", "SELECT name FROM singer WHERE age > 1"),
        ("SELECT name FROM singer ORDER BY age", "SELECT name FROM singer ORDER BY age DESC"),
        ("SELECT name FROM singer ORDER BY age LIMIT 1", "SELECT name FROM singer ORDER BY age"),
        ("SELECT name FROM singer ORDER BY age, name", "SELECT name FROM singer ORDER BY name, age"),
        ("SELECT count(*) FROM singer GROUP BY age, name", "SELECT count(*) FROM singer GROUP BY name, age"),
        (
            "SELECT name FROM singer UNION SELECT name FROM venue",
            "SELECT name FROM singer INTERSECT SELECT name FROM venue",
        ),
        (
            "SELECT name FROM singer UNION SELECT name FROM venue",
            "SELECT name FROM venue UNION SELECT name FROM singer",
        ),
        (
            "SELECT name FROM singer GROUP BY name HAVING count(*) > 1",
            "SELECT name FROM singer GROUP BY name HAVING count(*) < 1",
        ),
        (  # within a nested query DISTINCT counts
            "SELECT name FROM singer WHERE singer_id IN (SELECT DISTINCT singer_id FROM concert)",
            "SELECT name FROM singer WHERE singer_id IN (SELECT singer_id FROM concert)",
        ),
        (  # and so do values in a subquery of FROM
            "SELECT count(*) FROM (SELECT name FROM singer WHERE age > 1)",
            "SELECT count(*) FROM (SELECT name FROM singer WHERE age > 2)",
        ),
        (  # a column of a table that FROM lacks is not made one with that of the table it has
            "SELECT singer_id FROM singer WHERE singer_id IN (SELECT singer_id FROM concert)",
            "SELECT singer_id FROM singer WHERE singer_id IN (SELECT singer_id FROM singer)",
        ),
    ],
)
def test_these_do_not_match(gold, predicted):
    assert match(gold, gold) and match(predicted, predicted)
    assert not match(gold, predicted) and not match(predicted, gold)


@pytest.mark.parametrize(
    ("dressed", "sql"),
    [
        ("SELECT count(*) FROM singer -- all", "SELECT count(*) FROM singer"),
        ("/* the oldest; it's one */ SELECT name FROM singer ORDER BY age DESC LIMIT 1 ;; -- [", None),
        ("SELECT name -- [first\n FROM singer WHERE age > 3 /* 'old' */ AND country = 'a -- b' ;", None),
        ("; SELECT name FROM singer UNION SELECT name FROM venue /* not closed", None),
    ],
)
def test_comments_and_semicolons_are_no_part_of_a_query(dressed, sql):
    sql = sql or target(dressed)
    assert not {"/", ";"} & set(sql) and match(sql, dressed) and match(dressed, sql)
    assert hardness(SCHEMA, dressed) == hardness(SCHEMA, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "name",
        "SELECT name",
        "SELECT name FROM",
        "SELECT name FROM singer WHERE age=20",
        "SELECT name FROM singer WHERE age >=20",
        "SELECT name FROM singer WHERE age <> 20",
        "SELECT name FROM singer WHERE (age > 20)",
        "SELECT name FROM singer WHERE NOT age > 20",
        "SELECT name FROM singer WHERE age IS NOT NULL",
        "SELECT name FROM singer WHERE age IN (1, 2)",
        "SELECT name FROM singer WHERE name = 'O'Brien'",
        "SELECT name AS n FROM singer",
        "SELECT s.name FROM singer s",
        "SELECT singer.name FROM singer, concert",
        "SELECT name FROM singer INNER JOIN concert ON singer.singer_id = concert.singer_id",
        "SELECT name FROM singer AS venue",
        *("SELECT name FROM singer ORDER BY age LIMIT", "SELECT name FROM singer ORDER BY age LIMIT ;"),
        *("SELECT name FROM singer ORDER BY age AS", "SELECT name FROM singer AS", "SELECT name FROM singer LIMIT 1 AS"),
        "SELECT name FROM singer WHERE age > (SELECT age FROM singer LIMIT )",
        "SELECT T1.* FROM singer AS T1",
        "SELECT `name` FROM singer",
        "SELECT upper(name) FROM singer",
        "SELECT max(age) - min(age) FROM singer",
        "SELECT CASE WHEN age > 1 THEN name END FROM singer",
        "WITH s AS (SELECT name FROM singer) SELECT name FROM s",
        "SELECT name FROM singer UNION ALL SELECT name FROM venue",
        "SELECT nothing FROM singer",
        "SELECT year FROM singer",
        "SELECT T9.name FROM singer AS T1",
    ],
)
def test_sql_outside_the_dialect_matches_nothing(sql):
    with pytest.raises(NotSpiderSql):
        parse(SCHEMA, sql)
    assert comparable(SCHEMA, sql) is EMPTY
    assert not match("SELECT name FROM singer", sql)


def test_operators_may_touch_brackets_but_not_the_equals_sign():
    assert tokens("a<5 AND count(*)> =3 and b != 'X y';") == [
        *("a", "<", "5", "and", "count", "(", "*", ")", ">", "=3", "and", "b", "!=", '"X y"', ";"),
    ]
    assert tokens("a > = 3 and b=3") == ["a", ">=", "3", "and", "b=3"]


def test_a_bare_column_belongs_to_the_first_table_that_has_it():
    assert match("SELECT singer.name FROM singer JOIN venue", "SELECT name FROM singer JOIN venue")
    assert not match("SELECT venue.name FROM singer JOIN venue", "SELECT name FROM singer JOIN venue")


def test_an_alias_is_that_of_its_last_definition():
    gold = "SELECT T1.name FROM singer AS T1 EXCEPT SELECT T1.name FROM venue AS T1"
    assert match(gold, "SELECT venue.name FROM singer EXCEPT SELECT venue.name FROM venue")


def test_foreign_keys_join_the_first_group_that_has_either_column():
    def same_as(*pairs: tuple[int, int]) -> dict[str, str]:
        columns = ((-1, "*"), *((0, name) for name in "abcd"))
        return SqlSchema(Schema("x", ("t",), columns, ("text",) * 5, (), pairs)).same_as

    assert same_as((1, 2), (2, 3)) == {"t.a": "t.a", "t.b": "t.a", "t.c": "t.a"}
    # (2, 3) joins the first group alone, and the second, applied later, decides on column 3
    assert same_as((1, 2), (3, 4), (2, 3)) == {"t.a": "t.a", "t.b": "t.a", "t.c": "t.c", "t.d": "t.c"}


@pytest.mark.parametrize(
    ("level", "sql"),
    [
        ("easy", "SELECT count(*) FROM singer"),
        ("easy", "SELECT name FROM singer WHERE age > 1"),
        ("easy", "SELECT DISTINCT name FROM singer ORDER BY age"),
        ("medium", "SELECT name, age FROM singer"),
        ("medium", "SELECT name FROM singer WHERE age > 1 AND age < 3"),
        ("medium", "SELECT name FROM singer WHERE name LIKE 'a'"),
        ("medium", "SELECT name FROM singer ORDER BY age LIMIT 1"),
        (
            "medium",
            "SELECT T1.name FROM singer AS T1 JOIN concert AS T2 ON T1.singer_id = T2.singer_id WHERE T2.year = 1",
        ),
        ("hard", "SELECT name FROM singer WHERE age > 1 ORDER BY age LIMIT 1"),
        ("hard", "SELECT name FROM singer WHERE age = (SELECT max(age) FROM singer)"),
        ("hard", "SELECT name FROM singer UNION SELECT name FROM venue"),
        ("medium", "SELECT name, max(age) FROM singer GROUP BY name"),
        ("extra", "SELECT name, age FROM singer UNION SELECT name, venue_id FROM venue"),
        ("extra", "SELECT name FROM singer WHERE age > 1 GROUP BY name ORDER BY count(*) LIMIT 1"),
        (
            "extra",
            "SELECT name FROM singer WHERE age > (SELECT max(age) FROM singer) AND age < (SELECT avg(age) FROM singer)",
        ),
    ],
)
def test_hardness(level, sql):
    assert hardness(SCHEMA, sql) == level


def test_partial_scores_name_the_clause_that_differs():
    gold = "SELECT count(*), name FROM singer WHERE age > 1 GROUP BY name HAVING count(*) > 2 ORDER BY name"
    changes = {
        "SELECT max(age), name": {"select", "select (no aggregate)"},
        "SELECT sum(*), name": {"select"},
        "WHERE age < 1": {"where"},
        "WHERE singer_id > 1": {"where", "where (no operator)"},
        "GROUP BY age": {"group by", "group by (no having)"},
        "HAVING max(age) > 2": {"group by"},
        "ORDER BY age": {"order by"},
        "ORDER BY name DESC": {"order by", "keywords"},
        "WHERE age > 1 AND age > 2": {"where", "where (no operator)", "and/or"},
    }
    clauses = ("SELECT count(*), name", "WHERE age > 1", "GROUP BY name", "HAVING count(*) > 2", "ORDER BY name")
    for change, expected in changes.items():
        original = next(clause for clause in clauses if clause.split()[0] == change.split()[0])
        scores = partial_scores(comparable(SCHEMA, gold), comparable(SCHEMA, gold.replace(original, change)))
        assert tuple(scores) == CLAUSES
        assert {clause for clause, (same, _, _) in scores.items() if not same} == expected, change


def test_partial_scores_count_the_parts():
    gold = comparable(SCHEMA, "SELECT name, age FROM singer WHERE age > 1 AND age < 3")
    scores = partial_scores(gold, comparable(SCHEMA, "SELECT name FROM singer"))
    assert scores["select"] == (False, 1, 2) and scores["where"] == (False, 0, 2) and scores["order by"] == (True, 0, 0)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT name FROM singer WHERE age IN " + "(SELECT age FROM singer WHERE age IN " * 300,
        "(" * 3000 + "SELECT name FROM singer",
        "SELECT name FROM singer" + " UNION SELECT name FROM singer" * 600,
        "SELECT name FROM " + "(SELECT name FROM " * 900,
        "SELECT name FROM singer " + "x" * MAX_CHARS,
    ],
)
def test_deep_and_long_queries_are_outside_the_dialect(sql):
    assert comparable(SCHEMA, sql) is EMPTY


def test_random_words_are_read_or_refused_and_nothing_else():
    rng = random.Random(11)
    words = "select from where group by having order limit and or not in like between is ( ) , ; * = < > ! . - + 1 'a' \" as T1"
    words = [
        *words.split(),
        "singer",
        "name",
        "t1.name",
        "join",
        "on",
        "union",
        "count",
        "max",
        "\0",
        "é",
        "\ud800",
        "distinct",
    ]
    for _ in range(20_000):
        sql = " ".join(rng.choices(words, k=rng.randrange(14)))
        if rng.random() < 0.3:
            sql = "select name from singer " + sql
        try:
            query = parse(SCHEMA, sql)
        except NotSpiderSql:
            continue
        assert exact(query, query)
    for _ in range(2000):
        text = "".join(rng.choices(string.printable, k=rng.randrange(80)))
        comparable(SCHEMA, text)
