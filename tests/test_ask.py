"""Questions about any SQLite file: what is printed, and what is refused."""

import csv
import gzip
import io
import json
import os
import signal
import sqlite3
import sys
from pathlib import Path

import pytest

from data.answers.candidates import too_long
from data.benchmark import sample
from data.benchmark.spider import make
from data.common.errors import UserError
from data.run.ask import CHUNK, FIELDS, cell, conversation, drop_bare_ask, names_file, table
from data.run.signals import Stop
from data.sqlite.execute import Result

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "shop.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)")
        connection.executemany("INSERT INTO item (name) VALUES (?)", [("tea",), (None,), ("\x1b[31mred",)])
    return str(path)


BASE = dict(values=False, full_names=False, tiny=False, random_weights=False)
OPTIONS = dict(model="none", ask=None, db="", answers="", data="nowhere", seconds=5.0)


def talk(database: str, question: str | None, answer, seconds: float = 5.0, **base: bool) -> None:
    options = OPTIONS | dict(ask=question, db=database, seconds=seconds)
    conversation(options, BASE | base).go(answer, Stop())


def answers(*statements):
    """An `answer` that proposes one of these statements each time, and notes what it is asked."""
    written, asked = iter(statements), []

    def answer(rows, schemas):
        asked.extend((question, schemas[name].tables) for question, name in zip(rows["question"], rows["db_id"]))
        return [[dict(sql=next(written))] for _ in rows["question"]]

    return answer, asked


def test_a_question_gives_the_sql_and_its_rows(database, capsys):
    answer, asked = answers("SELECT id, name FROM item")
    talk(database, " What is there? ", answer)
    assert asked == [("What is there?", ("item",))]
    rows = ["id | name", "---+---------", "1  | tea", "2  | NULL", "3  | \ufffd[31mred", "(3 rows)"]
    assert capsys.readouterr().out.splitlines() == ["SELECT id, name FROM item", *rows]


ENDLESS = "WITH RECURSIVE a(x) AS (SELECT 1 UNION ALL SELECT x FROM a) SELECT count(*) FROM a"


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("", "the model wrote no SQL"),
        ("SELECT x FROM item", "\nno such column: x"),
        ("DELETE FROM item", "refused: "),
        (ENDLESS, "timed out: stopped after 0.5 s"),
    ],
)
def test_sql_that_gives_no_rows_says_why(database, capsys, sql, says):
    talk(database, "What?", answers(sql)[0], seconds=0.5)
    assert says in capsys.readouterr().out
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM item").fetchone() == (3,)


def test_of_several_candidates_one_that_returns_rows_is_answered(database, capsys):
    several = ("SELECT x FROM item", "SELECT id FROM item WHERE id > 9", "SELECT 8")
    proposed = [dict(sql=sql, score=-0.1 * place, ended=True) for place, sql in enumerate(several)]
    talk(database, "What?", lambda rows, schemas: [proposed])
    assert capsys.readouterr().out.startswith("SELECT 8\n8\n")


def test_typed_questions_are_answered_until_end_of_input(database, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("one?\n\n  \ntwo?"))
    answer, asked = answers("SELECT 1", "SELECT 2")
    talk(database, None, answer)
    assert [question for question, _ in asked] == ["one?", "two?"]
    assert capsys.readouterr().out.splitlines()[::5] == ["SELECT 1", "SELECT 2"]


def test_a_typed_question_that_is_too_long_does_not_end_the_conversation(database, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("long\nshort\n"))

    def answer(rows, schemas):
        return [too_long(1900, 1792) if rows["question"] == ["long"] else [dict(sql="SELECT 7")]]

    talk(database, None, answer)
    said = "the question takes 1,900 tokens, over --max_input_tokens 1,792: shorten it"
    assert f"error: {said}" in (printed := capsys.readouterr().out) and "SELECT 7" in printed
    with pytest.raises(UserError, match=said):
        talk(database, "long", answer)


@pytest.mark.parametrize(("given", "read"), [("n\udce9e?", "n\ufffde?"), ("\ud83d", "\ufffd"), ("\ud83d\ude00", "\U0001f600")])
def test_what_no_tokenizer_takes_is_replaced(database, given, read):
    """An argument's bytes that are no UTF-8 come as halves of characters."""
    answer, asked = answers("SELECT 1")
    talk(database, given, answer)
    assert asked[0][0] == read


def test_typed_bytes_that_are_no_utf_8_are_replaced(database, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"n\xe9e?\n"), encoding="utf-8"))
    answer, asked = answers("SELECT 1")
    talk(database, None, answer)
    assert asked[0][0] == "n\ufffde?"


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
        return [[dict(sql=sql)]]

    talk(str(path), None, answer)
    said = capsys.readouterr().out
    assert said.replace("\n", "").isprintable() and said.count("a\ufffd[2J") == 2
    assert "no such column: \ufffd[31mred" in said and "no room for \ufffd[2J" in said


def test_a_long_result_and_a_long_value_are_cut():
    text = table(Result([(i,) for i in range(20)], 50, ["n"], None, ""))
    assert len(text.splitlines()) == 2 + 20 + 1 and text.endswith("(50 rows, the first 20 shown)")
    assert cell("x" * 1000) == "x" * 39 + "…"


@pytest.mark.parametrize("content", [b"", b"PK\3\4" * 9])
def test_what_is_no_database_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match="is not a SQLite database"):
        talk(str(tmp_path / "file"), "What?", answers()[0])


def test_a_locked_database_and_one_without_tables_are_refused(database, tmp_path):
    other = sqlite3.connect(database)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UserError, match="locked"):
        talk(database, "What?", answers()[0])
    other.close()
    with sqlite3.connect(tmp_path / "empty.sqlite") as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("DROP TABLE t")
    with pytest.raises(UserError, match="holds no tables"):
        talk(str(tmp_path / "empty.sqlite"), "What?", answers()[0])


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
    assert drop_bare_ask(given) == kept


@pytest.mark.parametrize("given", [["--ask"], ["--tiny", "--ask"], ["--ask", "--out", "runs/x"]])
def test_ask_without_a_question_and_a_database_starts_no_training(given):
    with pytest.raises(UserError, match="--ask needs a database: name a SQLite file with --db FILE"):
        drop_bare_ask(given)


# ------------------------------------------------------------------------------------------------- questions in a file


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The working directory, with two databases: a file, and one of the benchmark `own`."""
    for name, script in (
        ("shop.sqlite", "CREATE TABLE item (id); INSERT INTO item VALUES (1), (NULL), (x'00ff'), (9e999), ('é')"),
        ("own/database/zoo.sqlite", "CREATE TABLE animal (name); INSERT INTO animal VALUES ('Rex')"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(tmp_path / name) as connection:
            connection.executescript(script)
    make(tmp_path / "own")
    (tmp_path / "own" / "dir.csv").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ask_file(name: str, answer, stop: Stop | None = None, **options) -> list[dict]:
    """The records of the file of answers."""
    made = conversation(OPTIONS | dict(ask=name, data="own") | options, BASE)
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    made.go(answer, stop or Stop())
    for handler in before:
        signal.signal(*handler)
    return written(made.output)


def written(path: Path) -> list[dict]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def by_question(**statements):
    """An `answer` that gives to each question what it is called for, and notes how many it was asked at once."""
    sizes = []

    def answer(rows, schemas):
        sizes.append(len(rows["question"]))
        assert len(rows["values"]) == len(rows["sql"]) == len(rows["db_id"]) and set(rows["db_id"]) == set(schemas)
        return [[dict(sql=statements.get(question, f"SELECT '{question}'"))] for question in rows["question"]]

    return answer, sizes


def test_each_question_of_a_file_is_answered_on_its_database(place, capsys):
    (place / "q.csv").write_bytes(
        b"\xef\xbb\xbfid,question,db\n1,all,shop.sqlite\n2,animals,zoo\n3,none,zoo\n4,n\xe9e,zoo\n5,bad,\n6,empty,\n"
    )
    statements = dict(all="SELECT id FROM item", none="", bad="SELECT colour FROM item", empty="SELECT id FROM item WHERE 0")
    answer, sizes = by_question(animals="SELECT * FROM animal", **statements)
    records = ask_file("q.csv", answer, db="shop.sqlite")
    assert sizes == [6] and [list(record) for record in records] == [list(FIELDS)] * 6
    values = ("all", "shop.sqlite", "SELECT id FROM item", None, 5, ["id"], [[1], [None], ["00ff"], ["inf"], ["é"]])
    assert records[0] == dict(zip(FIELDS, values))
    assert (records[1]["db"], records[1]["rows"]) == ("zoo", [["Rex"]])
    assert (records[2]["sql"], records[2]["error"], records[2]["rows"]) == ("", "the model wrote no SQL", [])
    assert records[3]["question"] == "n\ufffde" and records[4]["error"] == "no such column: colour"
    assert records[4]["db"] == "shop.sqlite" and (records[5]["error"], records[5]["row_count"]) == (None, 0)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "6 questions about 2 databases, 0 of them answered before"
    assert said[1:] == ["6 of 6 answered, 2 of the last 6 with an error", "the answers stand in q.answers.jsonl"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.txt", "\ufeffone, and\r\n\n two \n"),
        ("q.jsonl", '{"question": "one, and"}\n{"question": "two", "db": "", "more": [1]}\n'),
        ("q.json", '[{"question": "one, and", "db_id": "shop.sqlite"}, {"question": "two"}]'),
        ("q.CSV", 'Question;x\n"one, and";\ntwo;\n'),
        ("q.txt.gz", "one, and\ntwo"),
    ],
)
@pytest.mark.parametrize("answers_file", ["a.jsonl", "deep/a.csv"])
def test_questions_and_answers_have_several_forms(place, name, content, answers_file):
    data = content.encode()
    (place / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    records = ask_file(name, by_question()[0], db="shop.sqlite", answers=answers_file)
    assert [record["question"] for record in records] == ["one, and", "two"] and (place / answers_file).exists()
    rows = [json.loads(record["rows"]) if answers_file.endswith("csv") else record["rows"] for record in records]
    assert rows == [[["one, and"]], [["two"]]]


@pytest.mark.parametrize("answers_file", ["", "a.csv"])
def test_what_is_answered_is_not_asked_again(place, answers_file):
    (place / "q.jsonl").write_text("".join(json.dumps(dict(question=f"q {i % 300}\nand more")) + "\n" for i in range(450)))
    answer, sizes = by_question()

    def dies(rows, schemas):
        if len(sizes) == 1:
            raise KeyboardInterrupt
        return answer(rows, schemas)

    with pytest.raises(KeyboardInterrupt):
        ask_file("q.jsonl", dies, db="shop.sqlite", answers=answers_file)
    path = place / (answers_file or "q.answers.jsonl")
    assert len(written(path)) == CHUNK == 200
    records = ask_file("q.jsonl", answer, db="shop.sqlite", answers=answers_file)
    assert sizes == [200, 200, 50]
    assert [record["question"] for record in records] == [f"q {i % 300}\nand more" for i in range(450)]
    before = path.read_bytes()
    ask_file("q.jsonl", answer, db="shop.sqlite", answers=answers_file)
    assert sizes == [200, 200, 50] and path.read_bytes() == before
    (place / "q.jsonl").write_text(json.dumps(dict(question="new")) + "\n" + json.dumps(dict(question="q 1\nand more")) + "\n")
    assert len(ask_file("q.jsonl", answer, db="shop.sqlite", answers=answers_file)) == 451 and sizes[3:] == [1]


@pytest.mark.parametrize("answers_file", ["", "a.csv"])
def test_answers_go_on_behind_a_last_line_that_no_newline_ends(place, answers_file):
    (place / "q.txt").write_text("one\n")
    ask_file("q.txt", by_question()[0], db="shop.sqlite", answers=answers_file)
    path = place / (answers_file or "q.answers.jsonl")
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    (place / "q.txt").write_text("one\ntwo\n")
    records = ask_file("q.txt", by_question()[0], db="shop.sqlite", answers=answers_file)
    assert [record["question"] for record in records] == ["one", "two"]


def test_a_carriage_return_in_a_question_stays_within_its_field(place):
    (place / "q.jsonl").write_text(json.dumps(dict(question="how\rmany?")) + "\n")
    answer, sizes = by_question()
    for _ in range(2):
        (record,) = ask_file("q.jsonl", answer, db="shop.sqlite", answers="a.csv")
        assert record["question"] == "how\rmany?" and sizes == [1]


def test_a_table_of_answers_with_other_columns_is_left_alone(place):
    (place / "q.txt").write_text("one\n")
    ask_file("q.txt", by_question()[0], db="shop.sqlite", answers="a.csv")
    (place / "q.txt").write_text("one\ntwo\n")
    text = (place / "a.csv").read_text()
    edited = [text.replace("question,", "right?,question,").replace('\n"one"', '\n"yes","one"'), text.replace(",", ";")]
    for other in (*edited, text.replace("question,db", "db,question")):
        (place / "a.csv").write_text(other)
        with pytest.raises(UserError, match="a.csv has not the columns .* alone, with commas: name another file"):
            ask_file("q.txt", by_question()[0], db="shop.sqlite", answers="a.csv")
        assert (place / "a.csv").read_text() == other


def test_answers_that_another_program_writes_meanwhile_are_not_lost(place):
    (place / "q.txt").write_text("one\n")
    (place / "p.txt").write_text("two\n")

    def meanwhile(rows, schemas):
        ask_file("p.txt", by_question()[0], db="shop.sqlite", answers="a.jsonl")
        return by_question()[0](rows, schemas)

    with pytest.raises(UserError, match="another program has changed a.jsonl: the same command goes on"):
        ask_file("q.txt", meanwhile, db="shop.sqlite", answers="a.jsonl")
    assert [record["question"] for record in ask_file("q.txt", by_question()[0], db="shop.sqlite", answers="a.jsonl")] == [
        "two",
        "one",
    ]


def test_a_signal_keeps_what_was_answered(place, capsys):
    (place / "q.txt").write_text("\n".join(map(str, range(500))))
    answer, sizes = by_question()
    stop = Stop()

    def interrupted(rows, schemas):
        if len(sizes) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            return None
        return answer(rows, schemas)

    with pytest.raises(SystemExit) as caught:
        ask_file("q.txt", interrupted, stop, db="shop.sqlite")
    assert caught.value.code == 128 + signal.SIGTERM and len(written(place / "q.answers.jsonl")) == 200
    assert "stopped: 200 of 500 are answered in q.answers.jsonl; the same command goes on" in capsys.readouterr().out


def test_only_the_first_rows_are_kept_and_a_question_too_long_says_so(place):
    (place / "q.txt").write_text("many\nlong")
    many = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 5000) SELECT x FROM n"
    records = ask_file("q.txt", lambda rows, schemas: [[dict(sql=many)], too_long(9000, 64)], db="shop.sqlite")
    assert records[0]["row_count"] == 5000 and records[0]["rows"] == [[x] for x in range(1, 21)]
    assert records[1]["error"] == "the question takes 9,000 tokens, over --max_input_tokens 64: shorten it"


def test_the_sample_s_databases_are_called_by_name(place):
    (place / "q.jsonl").write_text(json.dumps(dict(question="how many?", db_id="robot_league")))
    (record,) = ask_file("q.jsonl", lambda rows, schemas: [[dict(sql="SELECT count(*) FROM robot")]], data="sample")
    assert record["rows"][0][0] > 0 and sample.build().is_dir()


def test_a_database_stands_where_the_file_of_questions_does(place, monkeypatch):
    (place / "q.jsonl").write_text(json.dumps(dict(question="how many?", db="shop.sqlite")))
    (place / "own" / "else").mkdir()
    monkeypatch.chdir(place / "own" / "else")
    assert len(ask_file(str(place / "q.jsonl"), by_question()[0])) == 1


@pytest.mark.parametrize(
    ("name", "content", "options", "says"),
    [
        ("q.csv", "question\nhow?\n", {}, "record 1 names no database: add a column db, or name one with --db"),
        ("q.csv", "text,db\nhow?,zoo\n", {}, "record 1 has no question"),
        ("q.csv", "question,db\nhow?,zoo\n ,zoo\n", {}, "record 2 has no question"),
        ("q.csv", "question,db\nhow?,lions\n", {}, "record 1: lions is neither a SQLite file nor a database in own"),
        ("q.csv", "question,db\nhow?,q.csv\n", {}, "q.csv is not a SQLite database"),
        ("q.jsonl", '{"question": 5, "db": "zoo"}', {}, "record 1 has no question"),
        ("q.jsonl", '{"question": "a", "db": ["zoo"]}', {}, "record 1 names no database"),
        ("q.jsonl", "how?", {}, "is not valid JSON Lines"),
        ("q.txt", " \n", dict(db="shop.sqlite"), "holds no questions"),
        ("q.txt", "a", dict(db="shop.sqlite", answers="a.xlsx"), "a.xlsx says not how .* name a .jsonl or a .csv"),
        ("q.jsonl", '{"question": "a", "db": "zoo"}', dict(answers="q.jsonl"), "q.jsonl holds other things than answers"),
        ("q.jsonl", '{"question": "a", "db": "zoo"}', dict(answers="own/dir.csv"), "dir.csv cannot be read"),
        ("q.jsonl", '{"question": "a", "db": "zoo"}', dict(answers="q.jsonl/a.csv"), "cannot be"),
        ("q.txt", None, dict(db="shop.sqlite"), "q.txt is missing"),
    ],
)
def test_what_is_wrong_with_a_file_of_questions_is_said_before_it_is_asked(place, name, content, options, says):
    if content is not None:
        (place / name).write_text(content)
    with pytest.raises(UserError, match=says) as caught:
        ask_file(name, lambda rows, schemas: pytest.fail("asked"), **options)
    assert "\n" not in str(caught.value)
    assert content is None or (place / name).read_text() == content


@pytest.mark.parametrize(
    ("asked", "file"),
    [
        *((name, True) for name in ("q.csv", "./Q.JSONL", "/no/where.txt", "q.json.gz", "q.tsv")),
        *((question, False) for question in (None, "", "How many?", "how many rows has q.csv", "q.sql", "a" * 5000 + " .txt")),
    ],
)
def test_a_file_of_questions_is_told_from_a_question(asked, file):
    assert names_file(asked) is file


def test_a_name_with_spaces_is_a_file_where_there_is_one(tmp_path):
    (tmp_path / "my questions.csv").touch()
    assert names_file(str(tmp_path / "my questions.csv")) and not names_file(str(tmp_path / "other questions.csv"))
