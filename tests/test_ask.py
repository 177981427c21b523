"""Questions about any SQLite file: what is printed, and what is refused."""

import io
import sqlite3
import sys

import pytest

from data.ask import Conversation, bare_ask, cell, table
from data.errors import UserError


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "shop.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)")
        connection.executemany("INSERT INTO item (name) VALUES (?)", [("tea",), (None,), ("\x1b[31mred",)])
    return str(path)


def answers(*statements):
    """An `answer` that proposes one of these statements each time, and notes what it is asked."""
    written, asked = iter(statements), []

    def answer(rows, schemas):
        asked.append((rows["question"][0], schemas[rows["db_id"][0]].tables))
        return [dict(sql=next(written))]

    return answer, asked


def test_a_question_gives_the_sql_and_its_rows(database, capsys):
    answer, asked = answers("SELECT id, name FROM item")
    Conversation(database).go(" What is there? ", answer)
    assert asked == [("What is there?", ("item",))]
    rows = ["id | name", "---+---------", "1  | tea", "2  | NULL", "3  | \ufffd[31mred", "(3 rows)"]
    assert capsys.readouterr().out.splitlines() == ["SELECT id, name FROM item", *rows]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("", "the model wrote no SQL"),
        ("SELECT x FROM item", "\nno such column: x"),
        ("DELETE FROM item", "refused: "),
        ("WITH RECURSIVE a(x) AS (SELECT 1 UNION ALL SELECT x FROM a) SELECT count(*) FROM a", "timed out: "),
    ],
)
def test_sql_that_gives_no_rows_says_why(database, capsys, sql, says):
    Conversation(database).go("What?", answers(sql)[0])
    assert says in capsys.readouterr().out
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM item").fetchone() == (3,)


def test_of_several_candidates_the_first_that_returns_rows_is_answered(database, capsys):
    proposed = [dict(sql="SELECT x FROM item"), dict(sql="SELECT id FROM item WHERE id > 9"), dict(sql="SELECT 8")]
    Conversation(database).go("What?", lambda rows, schemas: proposed)
    assert capsys.readouterr().out.startswith("SELECT 8\n8\n")


def test_typed_questions_are_answered_until_end_of_input(database, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("one?\n\n  \ntwo?"))
    answer, asked = answers("SELECT 1", "SELECT 2")
    Conversation(database).go(None, answer)
    assert [question for question, _ in asked] == ["one?", "two?"]
    assert capsys.readouterr().out.splitlines()[::5] == ["SELECT 1", "SELECT 2"]


def test_a_typed_question_that_fails_does_not_end_the_conversation(database, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("long\nshort\n"))

    def answer(rows, schemas):
        if rows["question"] == ["long"]:
            raise UserError("too long")
        return [dict(sql="SELECT 7")]

    Conversation(database).go(None, answer)
    assert "error: too long" in (printed := capsys.readouterr().out) and "SELECT 7" in printed
    with pytest.raises(UserError, match="too long"):
        Conversation(database).go("long", answer)


def test_nothing_that_is_printed_steers_a_terminal(tmp_path, capsys, monkeypatch):
    path = tmp_path / "\x1b[31mred.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute('CREATE TABLE "a\x1b[2J" ("\x07" TEXT)')

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("one?\ntwo?\nthree?\n"))
    asked = iter(["SELECT `\x1b[31mred`", 'SELECT "\x07" FROM "a\x1b[2J"'])

    def answer(rows, schemas):
        if (sql := next(asked, None)) is None:
            raise UserError("no room for \x1b[2J")
        return [dict(sql=sql)]

    Conversation(str(path)).go(None, answer)
    said = capsys.readouterr().out
    assert said.replace("\n", "").isprintable() and said.count("a\ufffd[2J") == 2
    assert "no such column: \ufffd[31mred" in said and "no room for \ufffd[2J" in said


def test_a_long_result_and_a_long_value_are_cut():
    text = table(["n"], [(i,) for i in range(50)])
    assert len(text.splitlines()) == 2 + 20 + 1 and text.endswith("(50 rows, the first 20 shown)")
    assert cell("x" * 1000) == "x" * 39 + "…"


@pytest.mark.parametrize("content", [b"", b"PK\3\4" * 9])
def test_what_is_no_database_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match="is not a SQLite database"):
        Conversation(str(tmp_path / "file")).go("What?", answers()[0])


def test_a_locked_database_and_one_without_tables_are_refused(database, tmp_path):
    other = sqlite3.connect(database)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UserError, match="locked"):
        Conversation(database).go("What?", answers()[0])
    other.close()
    with sqlite3.connect(tmp_path / "empty.sqlite") as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("DROP TABLE t")
    with pytest.raises(UserError, match="holds no tables"):
        Conversation(str(tmp_path / "empty.sqlite")).go("What?", answers()[0])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["--ask", "How?", "--db", "f"], ["--ask", "How?", "--db", "f"]),
        (["--db", "f", "--ask"], ["--db", "f"]),
        (["--ask", "--db", "f"], ["--db", "f"]),
        (["--ask", "", "--db", "f"], ["--ask", "", "--db", "f"]),
    ],
)
def test_ask_without_a_question_is_left_out(given, kept):
    assert bare_ask(given) == kept
