"""Which of several answers counts, and what is kept of the others."""

import sqlite3
from types import SimpleNamespace

import pytest

from data.answers.candidates import candidates, scored
from data.answers.vote import vote
from data.benchmark.sample import build
from data.benchmark.spider import load
from data.sqlite.execute import Executor


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pets.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript("CREATE TABLE pet (name, age); INSERT INTO pet VALUES ('Rex', 3), ('Tom', 3.0)")
    return path


@pytest.mark.parametrize(
    ("proposed", "place"),
    [
        (["SELECT colour FROM pet", "SELECT name FROM pet WHERE age > 9", "SELECT name FROM pet", "SELECT age FROM pet"], 2),
        (["SELECT colour FROM pet", "SELECT name FROM pet WHERE age > 9", "SELECT 1 FROM pet WHERE 0"], 1),
        (["SELECT colour FROM pet", "DROP TABLE pet", ""], 0),
        (["SELECT name FROM pet", "SELECT age FROM pet"], 0),
        (["SELECT colour FROM pet"], 0),
    ],
)
def test_what_returns_rows_goes_before_what_runs_and_that_before_the_first(database, proposed, place):
    own = [dict(sql=sql, score=-0.1 * number, ended=True) for number, sql in enumerate(proposed)]
    with Executor(workers=1) as executor:
        assert vote(executor, [(database, own), (database, own[::-1])]) == [place, len(own) - 1 - place]
    if len(own) > 1:
        assert own[0]["rows"] == (2 if own[0]["sql"] == "SELECT name FROM pet" else 0)
        assert [each["error"] is None for each in own] == [sql.endswith(("pet", "9", "0")) and "DROP" not in sql and
                                                           "colour" not in sql for sql in proposed]  # fmt: skip


@pytest.mark.parametrize(("likelihoods", "place"), [((-2.0, -0.5), 1), ((-0.7, -0.5), 0), ((-0.5, -2.0), 0), ((None, None), 0)])
def test_the_one_counts_whose_sql_explains_the_question(database, likelihoods, place):
    own = [dict(sql=AGES, score=-0.1, ended=True), dict(sql=NAMES, score=-0.3, ended=True)]
    own.append(dict(sql="SELECT colour FROM pet", score=0.0, ended=True, question_score=0.0))
    for each, likelihood in zip(own, likelihoods):
        each |= {} if likelihood is None else dict(question_score=likelihood)
    with Executor(workers=1) as executor:
        assert vote(executor, [(database, own)]) == [place]


NAMES, AGES, NONE = "SELECT name FROM pet", "SELECT age FROM pet", "SELECT name FROM pet WHERE age > 9"


@pytest.mark.parametrize(
    ("proposed", "place"),
    [
        ([(AGES, -0.10), (NAMES, -0.11), (NAMES + " ORDER BY age", -0.12)], 1),  # two that return the same outvote one
        ([("SELECT name, age FROM pet", -0.11), (NAMES, -0.10), ("SELECT age, name FROM pet", -0.12)], 0),  # in any order
        ([(AGES, -0.01), (NAMES, -0.2), (NAMES + " ORDER BY age", -0.2)], 0),  # unless it is far likelier
        ([("SELECT colour FROM pet", 0.0), ("SELECT", 0.0), (NAMES, -3.0)], 2),  # what does not run has no vote
        ([(NONE, -0.1), (NAMES, -0.3)], 1),
        ([(NONE, -0.1), (NAMES, -0.5)], 0),
        ([("SELECT colour FROM pet", -0.2), ("SELECT", -0.1)], 1),
        ([(NAMES, -0.1), (AGES, -0.1)], 0),
        ([(NAMES, -900.0), (AGES, -800.0)], 1),
    ],
)
def test_answers_vote_by_what_they_return(database, proposed, place):
    own = [dict(sql=sql, score=score, ended=True) for sql, score in proposed]
    with Executor(workers=1) as executor:
        assert vote(executor, [(database, own)]) == [place]
    assert [each["rows"] for each in own if each["sql"].startswith(NAMES) and each["sql"] != NONE] == [2] * sum(
        sql.startswith(NAMES) and sql != NONE for sql, _ in proposed
    )
    assert [each["error"] is None for each in own] == ["colour" not in sql and sql != "SELECT" for sql, _ in proposed]


@pytest.mark.parametrize(("likelihood", "place"), [(-0.3, 1), (-0.5, 0)])
def test_a_cut_answer_counts_for_little(database, likelihood, place):
    own = [dict(sql=NAMES, score=-0.1, ended=False), dict(sql=AGES, score=likelihood, ended=True)]
    with Executor(workers=1) as executor:
        assert vote(executor, [(database, own)]) == [place]


def test_what_was_not_judged_is_no_better_than_what_was(database):
    own = [dict(sql=AGES, score=-0.1, ended=True, question_score=-2.0), dict(sql=NAMES, score=-0.2, ended=True)]
    with Executor(workers=1) as executor:
        assert vote(executor, [(database, own)]) == [0]


def test_a_result_has_its_first_rows_and_their_number(database):
    jobs = [(database, "SELECT name FROM pet ORDER BY age"), (database, "SELECT colour FROM pet")]
    with Executor(workers=1) as executor:
        whole, (first, lost), (none, _) = (executor.run(jobs, keep=keep) for keep in (None, 1, 0))
    assert [whole[0].rows, first.rows, none.rows] == [whole[0].rows, whole[0].rows[:1], []]
    assert whole[0].count == first.count == none.count == len(whole[0].rows) == 2 and first.columns == ["name"]
    assert (lost.rows, lost.count, lost.error, lost.message) == (None, 0, "no such column", "no such column: colour")


def test_a_digest_tells_whether_results_are_equal_in_whatever_order(database):
    ways = ["name, age FROM pet", "age, name FROM pet ORDER BY name DESC", "name, age FROM pet WHERE age > 9", "name FROM pet"]
    numbers = "SELECT value FROM (WITH n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT {}) SELECT * FROM n)"
    jobs = [*(f"SELECT {way}" for way in ways), *map(numbers.format, (499, 500, 501, 502)), "SELECT char(0xD800)"]
    with Executor(workers=1) as executor:
        same, turned, empty, narrow, *some, odd = (
            result.digest for result in executor.run([(database, sql) for sql in jobs], keep=0)
        )
    assert same == turned and len({same, empty, narrow, odd}) == 4
    assert some[0] != some[1] == some[2] == some[3]  # what is larger is told apart by its number of rows


def test_a_digest_compares_numbers_by_value(database):
    jobs = ["SELECT 3, -0.0, 'a'", "SELECT 3.0, 0, 'a'", "SELECT 3.5, 0, 'a'", "SELECT '3', 0, 'a'", "SELECT 9e999, 0, 'a'"]
    with Executor(workers=1) as executor:
        same, alike, *others = (result.digest for result in executor.run([(database, sql) for sql in jobs], keep=0))
    assert same == alike and len({same, *others}) == 4


def test_answers_that_read_alike_are_one():
    tokenizer = SimpleNamespace(batch_decode=lambda lists, **how: ["SELECT " + str(len(set(ids) - {0})) for ids in lists])
    found = candidates([([5, 6, 0], -0.1), ([6, 5, 0], -0.2), ([7, 8, 9], -0.3)], tokenizer, end=0)
    assert found == [dict(sql="SELECT 2", score=-0.1, ended=True), dict(sql="SELECT 3", score=-0.3, ended=False)]


def test_where_a_model_has_no_answer_one_without_sql_stands_in():
    tokenizer = SimpleNamespace(batch_decode=lambda lists, **how: ["" for _ in lists])
    assert candidates([], tokenizer, end=0) == [dict(sql="", score=0.0, ended=False)]


def test_the_chosen_one_is_scored_and_the_others_are_kept():
    benchmark = load(build())
    examples = benchmark.splits["dev"][:3]
    one, two, three = ([dict(sql=example.sql, score=-0.2, ended=True)] for example in examples)
    two.insert(0, dict(sql="SELECT colour FROM nowhere", score=-0.1, ended=True))
    three[0] |= dict(sql=three[0]["sql"] + " AND", ended=False)
    rows = scored(benchmark, "dev", [one, two, three], examples)
    assert [row["execution_match"] for row in rows] == [True, True, False]
    assert [row["cut"] for row in rows] == [False, False, True]
    assert rows[1]["chosen"] == 1 and rows[1]["candidates"][0]["error"] == "no such table"
    assert "candidates" not in rows[0] and rows[1]["predicted"] == examples[1].sql
