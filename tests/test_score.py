"""Scores: verdicts, totals, the command, and text that is made to break them."""

import hashlib
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from data.answers.score import executable, interval, plugged, read_gold, read_run, score, seconds_of, totals
from data.benchmark.prompt import prompt
from data.benchmark.schema import Benchmark
from data.benchmark.spider import inspect, load, schema_of_database, tables_entry
from data.sqlite import execute

ROOT = Path(__file__).resolve().parents[1]
TABLES = "CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, age INTEGER, country TEXT);"
ROWS = "INSERT INTO singer VALUES (1, 'Ann', 30, 'France'), (2, 'Bob', 40, 'Chad'), (3, 'Cy', 30, 'France');"
GOLD = (
    "SELECT count(*) FROM singer",
    "SELECT name, age FROM singer WHERE country = 'France'",
    "SELECT name FROM singer ORDER BY age DESC, name",
    "SELECT DISTINCT country FROM singer",
    "SELECT name FROM singer WHERE age = (SELECT max(age) FROM singer)",
)
KEYS = ["index", "db_id", "question", "gold", "predicted", "execution_match", "exact_match", "hardness", "error"]


def make_spider(folder: Path, gold: tuple[str, ...] = GOLD) -> Path:
    """A directory in Spider's layout with one database of three rows."""
    database = folder / "database" / "music" / "music.sqlite"
    database.parent.mkdir(parents=True)
    write_database(database, TABLES + ROWS)
    (folder / "tables.json").write_text(json.dumps([tables_entry(database, "music")]))
    examples = [{"db_id": "music", "question": f"Question {i}?", "query": sql} for i, sql in enumerate(gold)]
    (folder / "dev.json").write_text(json.dumps(examples))
    (folder / "dev_gold.sql").write_text("".join(f"{sql}\tmusic\n" for sql in gold))
    return folder


def write_database(path: Path, script: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


@pytest.fixture
def spider(tmp_path) -> Path:
    return make_spider(tmp_path / "spider")


@pytest.fixture
def benchmark_(spider) -> Benchmark:
    return load(spider, ("dev",))


def score_one(benchmark: Benchmark, gold_index: int, predicted: str, **options) -> dict:
    return score(benchmark, "dev", [predicted], [benchmark.splits["dev"][gold_index]], workers=1, **options)[0]


def command(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "data.score", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False
    )


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# verdicts


def test_rows_have_the_keys_of_the_predictions_file(benchmark_):
    row = score_one(benchmark_, 1, "SELECT age, name FROM singer WHERE country = 'France'")
    assert list(row)[: len(KEYS)] == KEYS
    assert (row["index"], row["db_id"], row["question"]) == (1, "music", "Question 1?")
    assert (row["execution_match"], row["exact_match"], row["hardness"], row["error"]) == (True, True, "medium", None)


def test_gold_scores_full_marks(benchmark_):
    rows = score(benchmark_, "dev", GOLD, workers=1)
    assert all(row["execution_match"] and row["exact_match"] for row in rows)


@pytest.mark.parametrize(
    ("gold", "predicted", "error"),
    [
        (0, "", execute.PARSE),
        (0, "SELEC count(*)", execute.PARSE),
        (0, "SELECT count(*) FROM singers", execute.NO_TABLE),
        (0, "SELECT count(size) FROM singer", execute.NO_COLUMN),
        (0, "SELECT max(count(*)) FROM singer", execute.FAILS),
        (0, "DROP TABLE singer", execute.REFUSED),
        (0, "SELECT count(*) FROM singer; SELECT 3", execute.REFUSED),
        (0, "SELECT 4", execute.WRONG_ROWS),
        (1, "SELECT name FROM singer WHERE country = 'France'", execute.WRONG_ROWS),
        (2, "SELECT name FROM singer ORDER BY age, name", execute.WRONG_ORDER),
        (2, "SELECT name FROM singer", execute.WRONG_ORDER),
        (0, "SELECT length(zeroblob(1000000000))", execute.TOO_LARGE),
        (0, "SELECT " + "1 + " * 10_000 + "1", execute.TOO_LARGE),
        (
            0,
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c",
            execute.TIMED_OUT,
        ),
    ],
)
def test_every_fault_has_its_class(benchmark_, gold, predicted, error):
    row = score_one(benchmark_, gold, predicted, seconds=0.5)
    assert (row["execution_match"], row["error"]) == (False, error)


def test_values_count_in_execution_alone(benchmark_):
    row = score_one(benchmark_, 1, "SELECT name, age FROM singer WHERE country = 'Chad'")
    assert (row["execution_match"], row["exact_match"]) == (False, True)


def test_order_counts_only_where_the_gold_orders(benchmark_):
    assert score_one(benchmark_, 1, GOLD[1] + " ORDER BY id DESC")["execution_match"]


def test_distinct_is_dropped_unless_kept(benchmark_):
    predicted = "SELECT country FROM singer"
    assert score_one(benchmark_, 3, predicted)["execution_match"]
    assert not score_one(benchmark_, 3, predicted, keep_distinct=True)["execution_match"]
    assert score_one(benchmark_, 3, GOLD[3], keep_distinct=True)["execution_match"]


def test_a_statement_is_changed_before_it_runs_only_outside_quotes():
    assert executable("SELECT DISTINCT a FROM t WHERE b = 'distinct' AND c > = 1").split() == [
        *("SELECT", "a", "FROM", "t", "WHERE", "b", "=", "'distinct'", "AND", "c", ">=", "1"),
    ]
    assert executable("SELECT year(curdate( )) - 5") == "SELECT 2020 - 5"
    assert executable("SELECT DISTINCT a", keep_distinct=True) == "SELECT DISTINCT a"
    operator = "SELECT a FROM t WHERE a IS NOT DISTINCT FROM 1"
    assert executable(operator) == operator
    assert executable("SELECT distinctive, '> =' FROM t") == "SELECT distinctive, '> =' FROM t"


def test_values_of_the_gold_are_plugged_in_only_when_asked(benchmark_):
    predicted = "SELECT name, age FROM singer WHERE country = 'x'"
    assert not score_one(benchmark_, 1, predicted)["execution_match"]
    assert score_one(benchmark_, 1, predicted, plug_values=True)["execution_match"]


def test_plugging_tries_every_choice_of_values_and_no_more_than_its_limit():
    choices = plugged("SELECT a FROM t WHERE b = 5 AND c = 'x'", "SELECT a1 FROM t WHERE b = 7 AND c = 'y' LIMIT 2")
    assert len(choices) == len(set(choices)) == 9
    assert choices[0] == "SELECT a1 FROM t WHERE b = 7 AND c = 'y' LIMIT 2"
    assert "SELECT a1 FROM t WHERE b = 5 AND c = 'x' LIMIT 5" in choices
    assert plugged("SELECT a FROM t", "SELECT a FROM t LIMIT 3") == ["SELECT a FROM t LIMIT 3"]
    assert len(plugged("SELECT 1, 2, 3", "SELECT " + "4, " * 50 + "4")) == 1001


@pytest.mark.parametrize("condition", ["country = 'Chad'", 'country = "Chad" AND id > 1', "35 < age AND id = 2"])
def test_the_predictions_own_values_are_tried_first(benchmark_, condition):
    """The gold has none of them."""
    example = replace(benchmark_.splits["dev"][0], sql="SELECT name FROM singer ORDER BY age DESC LIMIT 1")
    predicted = f"SELECT name FROM singer WHERE {condition} AND age = (SELECT max(age) FROM singer)"
    (row,) = score(benchmark_, "dev", [predicted], [example], plug_values=True)
    assert row["execution_match"], row


def test_a_prediction_is_right_only_if_it_is_on_every_database(spider, benchmark_):
    predicted = "SELECT name, age FROM singer WHERE age = 30"  # right by chance on the first
    assert score_one(benchmark_, 1, predicted)["execution_match"]
    second = spider / "database" / "music" / "music_v2.sqlite"
    write_database(second, TABLES + "INSERT INTO singer VALUES (1, 'Ann', 30, 'Chad'), (2, 'Bo', 9, 'France');")
    assert not score_one(benchmark_, 1, predicted)["execution_match"]
    assert score_one(benchmark_, 1, GOLD[1])["execution_match"]


def test_a_database_in_wal_mode_gives_what_another_does(spider, benchmark_):
    """Whatever has read it before: values, schemas and states of databases are looked up in the same files."""
    write_database(spider / "database/music/music.sqlite", "PRAGMA journal_mode = WAL;")
    before = {path: path.read_bytes() for path in (spider / "database").rglob("*") if path.is_file()}
    for _ in range(2):
        benchmark = load(spider, ("dev",), values=True)
        assert all(row["execution_match"] for row in score(benchmark, "dev", GOLD))
        assert inspect(spider) == ["dev: 5 examples, 1 databases: 1 present", "  gold that runs: 5 of 5"]
        assert schema_of_database(spider / "database/music/music.sqlite") == benchmark.schemas["music"]
        assert {path: path.read_bytes() for path in (spider / "database").rglob("*") if path.is_file()} == before


def test_a_folder_of_databases_may_stand_elsewhere(tmp_path, benchmark_):
    suite = tmp_path / "suite"
    (suite / "music").mkdir(parents=True)
    write_database(suite / "music" / "music.sqlite", TABLES)
    predicted = "SELECT 0 FROM singer WHERE id > 2"  # one row in Spider's own database, none in the empty one
    assert not score_one(benchmark_, 1, predicted)["execution_match"]
    lines = tmp_path / "predicted.sql"
    lines.write_text("".join(f"{sql}\n" for sql in (GOLD[0], predicted, *GOLD[2:])))
    spider, out = tmp_path / "spider", tmp_path / "out"
    done = command(
        "--predictions", lines, "--gold", spider / "dev_gold.sql", "--data", spider, "--out", out, "--databases", suite
    )
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert rows[1]["execution_match"], done


def test_gold_that_fails_is_counted_and_never_raised(tmp_path):
    gold = ("SELECT nothing FROM singer", "SELECT name FROM nowhere", "SELECT count(*) FROM singer")
    benchmark = load(make_spider(tmp_path / "s", gold), ("dev",))
    rows = score(benchmark, "dev", gold, workers=1)
    assert [row["error"] for row in rows] == [execute.GOLD_FAILS, execute.GOLD_FAILS, None]
    assert [row["message"] for row in rows] == ['does not parse: near "nothing": syntax error', "no such table: nowhere", ""]
    figures = totals(rows)
    assert figures["n"] == 3 and figures["errors"][execute.GOLD_FAILS]["n"] == 2
    assert figures["execution_accuracy"] == pytest.approx(1 / 3)


def test_a_number_of_predictions_that_differs_is_an_error(benchmark_):
    with pytest.raises(ValueError, match="4 predictions for 5 examples"):
        score(benchmark_, "dev", GOLD[:4])


def test_scoring_needs_no_models_library(benchmark_):
    code = (
        "import sys\nfor name in ('torch', 'transformers', 'numpy', 'tqdm', 'datasets'):\n    sys.modules[name] = None\n"
        "import data.answers.score\nfrom data.benchmark.spider import load\n"
        f"rows = data.answers.score.score(load({str(benchmark_.root)!r}, ('dev',)), 'dev', {list(GOLD)!r}, progress=True)\n"
        "print(data.answers.score.totals(rows)['execution_accuracy'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("1.0\n", 0), done.stderr


# totals


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (805, 1034, 0.7523, 0.8028), (0, 0, 0, 1)],
)
def test_wilson_intervals(successes, n, low, high):
    assert interval(successes, n) == pytest.approx((low, high), abs=1e-4)


def test_totals_are_fractions_of_all_rows(benchmark_):
    predictions = [GOLD[0], "", GOLD[2], "SELECT 1", "SELECT name FROM singer LIMIT 1"]
    figures = totals(score(benchmark_, "dev", predictions, workers=1))
    assert (figures["execution_accuracy"], figures["exact_match"], figures["n"]) == (0.4, 0.4, 5)
    assert figures["execution_accuracy_low"] < 0.4 < figures["execution_accuracy_high"]
    levels = figures["by_hardness"]
    assert {level: part["n"] for level, part in levels.items()} == {"easy": 3, "medium": 1, "hard": 1, "extra": 0}
    assert levels["easy"]["execution_accuracy"] == pytest.approx(2 / 3) and levels["extra"]["execution_accuracy"] == 0.0
    assert {name: part["n"] for name, part in figures["errors"].items()} == {execute.PARSE: 1, execute.WRONG_ROWS: 2}
    assert figures["errors"][execute.PARSE]["share"] == 0.2
    assert figures["partial"]["order by"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert figures["partial"]["where"]["recall"] == 0.0


def test_totals_of_nothing_do_not_divide_by_zero():
    assert totals([])["n"] == 0


# the command


def test_predictions_and_gold_files(spider, tmp_path):
    predicted = tmp_path / "predicted.sql"
    predicted.write_text("\n".join([GOLD[0] + " ;", "", "```sql " + GOLD[2] + " ```", "SELECT 1", GOLD[4]]) + "\n")
    out = tmp_path / "deep" / "out"
    done = command("--predictions", predicted, "--gold", spider / "dev_gold.sql", "--data", spider, "--out", out, "--clean")
    assert done.returncode == 0, done.stderr
    rows, figures = read_rows(out / "predictions.jsonl"), json.loads((out / "result.json").read_text())
    assert [row["execution_match"] for row in rows] == [True, False, True, False, True]
    assert [row["question"] for row in rows] == [f"Question {i}?" for i in range(5)]
    assert list(rows[0])[: len(KEYS)] == KEYS
    assert (figures["execution_accuracy"], figures["n"], figures["distinct"]) == (0.6, 5, "dropped")
    assert "60.00%" in done.stdout and "does not parse" in done.stdout


def test_lines_of_others_are_taken_as_they_are_unless_asked(spider, tmp_path):
    predicted = tmp_path / "predicted.sql"
    echo = f"How many? {prompt('How many?', load(spider, ('dev',)).schemas['music'])} ".replace("\n", " ") * 20
    lines = [GOLD[0], echo + GOLD[1], f"Sure! {GOLD[2]}", f"{GOLD[3]} ;", f"{GOLD[4]} ; SELECT 1"]
    assert len(lines[1]) > 2000
    predicted.write_text("\n".join(lines))
    files = ["--predictions", predicted, "--gold", spider / "dev_gold.sql", "--data", spider, "--out", tmp_path / "out"]
    for options, right in (([], [True, False, False, True, False]), (["--clean"], [True] * 5)):
        assert command(*files, *options).returncode == 0
        rows = read_rows(tmp_path / "out" / "predictions.jsonl")
        assert [row["execution_match"] for row in rows] == right
        assert [row["exact_match"] for row in rows] == [*right[:4], True]  # the official scorer ignores a second statement
        assert [row["predicted"] for row in rows] == (list(GOLD) if options else lines)


@pytest.mark.parametrize(
    "around",
    [
        "{} -- all",
        "{} ;",
        "{} ; -- order by [it's",
        "/* it's 'all' */ {}",
        "-- 1\n{}\n;;",
        "{} /* ORDER BY age DESC LIMIT 1",
        "; {}",
        "{} ; /* it's */ ; -- end",
    ],
)
def test_gold_with_comments_and_semicolons_is_scored_as_without(tmp_path, around):
    bare = tuple(GOLD) + ("SELECT name FROM singer WHERE age IS NULL OR country = 'a  b'",)
    plain, dressed = (make_spider(tmp_path / name, gold) for name, gold in (
        ("plain", bare), ("dressed", tuple(around.format(sql) for sql in bare))))  # fmt: skip
    predicted = [*bare[:4], "SELECT name FROM singer", bare[5]]
    rows, others = (score(load(folder, ("dev",)), "dev", predicted) for folder in (plain, dressed))
    keys = ("exact_match", "hardness", "partial", "execution_match", "error")
    assert [[row[key] for key in keys] for row in others] == [[row[key] for key in keys] for row in rows]
    assert [row["exact_match"] for row in others] == [True, True, True, True, False, True]


def test_a_gold_line_of_a_comment_alone_is_refused(spider, tmp_path):
    gold = tmp_path / "gold.sql"
    gold.write_text(f"{GOLD[0]}\tmusic\n-- SELECT 1 ;\tmusic\n")
    done = command("--predictions", gold, "--gold", gold, "--data", spider)
    assert done.returncode == 2 and f"{gold}, line 2" in done.stderr and done.stderr.count("\n") == 1


def test_a_db_id_after_the_prediction_is_no_part_of_it(spider, tmp_path):
    predicted = tmp_path / "predicted.sql"
    predicted.write_text("".join(f"{sql.replace(' FROM', chr(9) + 'FROM')}\tmusic\n" for sql in GOLD))
    done = command("--predictions", predicted, "--gold", spider / "dev_gold.sql", "--data", spider)
    assert done.stdout.splitlines()[5].count("100.00%") == 2, done.stderr


def test_a_mark_of_byte_order_is_no_part_of_a_statement(spider, tmp_path):
    gold, marked = spider / "dev_gold.sql", tmp_path / "marked.sql"
    marked.write_text("\ufeff" + gold.read_text())
    plain, done = (command("--predictions", path, "--gold", path, "--data", spider) for path in (gold, marked))
    assert done.stdout == plain.stdout and done.returncode == 0


def test_no_processes_are_too_few(spider):
    gold = spider / "dev_gold.sql"
    done = command("--predictions", gold, "--gold", gold, "--data", spider, "--workers", 0)
    assert (done.returncode, done.stderr) == (2, "error: --workers has to be positive\n")


@pytest.mark.parametrize(
    ("lines", "named"),
    [(GOLD[:4], "4 predictions"), ([*GOLD, "SELECT 1"], "6 predictions"), ([], "0 predictions")],
)
def test_a_count_mismatch_is_an_error_and_writes_nothing(spider, tmp_path, lines, named):
    predicted = tmp_path / "predicted.sql"
    predicted.write_text("".join(f"{line}\n" for line in lines))
    done = command(
        *("--predictions", predicted, "--gold", spider / "dev_gold.sql", "--data", spider, "--out", tmp_path / "out")
    )
    assert done.returncode == 2 and named in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda spider: (spider / "dev_gold.sql").unlink(), "dev_gold.sql"),
        (lambda spider: (spider / "predicted.sql").unlink(), "predicted.sql"),
        (lambda spider: (spider / "tables.json").unlink(), "music"),
        (lambda spider: (spider / "database" / "music" / "music.sqlite").unlink(), "music.sqlite"),
        (lambda spider: (spider / "database/music/music.sqlite").write_bytes(b""), "music.sqlite is not a SQLite database"),
        (lambda spider: os.mkfifo(spider / "database/music/other.sqlite"), "other.sqlite cannot be read (not a regular file)"),
        (lambda spider: (spider / "database/music/x.sqlite").symlink_to("/dev/zero"), "x.sqlite cannot be read"),
        (lambda spider: (spider / "database/music/x.sqlite").mkdir(), "x.sqlite cannot be read (Is a directory)"),
        (lambda spider: (spider / "dev_gold.sql").write_text("SELECT 1\n" * 5), "dev_gold.sql, line 1"),
        (lambda spider: (spider / "dev_gold.sql").write_text("SELECT 1\topera\n" * 5), "opera"),
        (lambda spider: (spider / "dev_gold.sql").write_text(""), "dev_gold.sql"),
        (lambda spider: (spider / "tables.json").write_text("{"), "tables.json"),
    ],
)
def test_what_is_missing_or_malformed_is_named_in_one_line(spider, change, named):
    (spider / "predicted.sql").write_text("".join(f"{sql}\n" for sql in GOLD))
    change(spider)
    done = command("--predictions", spider / "predicted.sql", "--gold", spider / "dev_gold.sql", "--data", spider)
    assert done.returncode == 2 and named in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def make_run(folder: Path, spider: Path, predictions: tuple[str, ...]) -> Path:
    """A run folder, scored wrongly."""
    folder.mkdir()
    record = {"script": "x", "data": {"directory": str(spider), "examples": {"dev": 5}, "sha256": "0"}}
    (folder / "args.json").write_text(json.dumps(record))
    rows = [
        {
            "index": i,
            "db_id": "music",
            "question": "?",
            "gold": GOLD[i],
            "predicted": sql,
            "execution_match": False,
            "seen": 1,
        }
        for i, sql in enumerate(predictions)
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "result.json").write_text(json.dumps({"script": "x", "execution_accuracy": 0.0, "n": len(rows)}))
    return folder


def test_a_run_folder_is_scored_again_in_place(spider, tmp_path):
    run = make_run(tmp_path / "run", spider, (*GOLD[:4], "SELECT 1"))
    done = command(run)
    assert done.returncode == 0, done.stderr
    rows, result = read_rows(run / "predictions.jsonl"), json.loads((run / "result.json").read_text())
    assert [row["execution_match"] for row in rows] == [True] * 4 + [False]
    assert rows[0]["seen"] == 1 and rows[0]["question"] == "Question 0?"
    assert (result["script"], result["execution_accuracy"], result["n"]) == ("x", 0.8, 5)


@pytest.mark.parametrize(("seconds", "words", "limit"), [(0.25, [], "0.25 s"), (0.25, ["--seconds", "0.5"], "0.5 s")])
def test_a_run_keeps_its_limit_of_a_statement(spider, tmp_path, seconds, words, limit):
    run = make_run(
        tmp_path / "run", spider, ("WITH RECURSIVE a(x) AS (SELECT 1 UNION ALL SELECT x FROM a) SELECT count(*) FROM a",)
    )
    (run / "args.json").write_text(json.dumps(json.loads((run / "args.json").read_text()) | dict(args=dict(seconds=seconds))))
    assert command(run, *words).returncode == 0
    assert limit in read_rows(run / "predictions.jsonl")[0]["message"]


@pytest.mark.parametrize("args", [None, {}, dict(seconds="soon"), dict(seconds=-1), dict(seconds=None)])
def test_a_run_that_names_no_limit_has_the_default(tmp_path, args):
    (tmp_path / "args.json").write_text(json.dumps(dict(args=args)))
    assert seconds_of(tmp_path) == seconds_of(tmp_path / "none") == 5.0


def test_a_run_on_part_of_the_split_is_scored_on_that_part(spider, tmp_path):
    run = make_run(tmp_path / "run", spider, GOLD[:2])
    assert command(run).returncode == 0
    assert json.loads((run / "result.json").read_text())["n"] == 2


def test_a_run_whose_data_moved_takes_the_data_option(spider, tmp_path):
    run = make_run(tmp_path / "run", tmp_path / "gone", GOLD)
    failed = command(run)
    assert failed.returncode == 2 and "gone" in failed.stderr and failed.stderr.count("\n") == 1
    assert command(run, "--data", spider).returncode == 0


@pytest.mark.parametrize("fault", ["fewer rows", "twice", "other data", "not JSON", "no predictions", "no arguments"])
def test_a_run_folder_that_does_not_hold_together_is_refused(spider, tmp_path, fault):
    run = make_run(tmp_path / "run", spider, GOLD)
    path = run / "predictions.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    if fault == "fewer rows":
        path.write_text("".join(lines[:4]))
    elif fault == "twice":
        path.write_text("".join([*lines[:4], lines[0]]))
    elif fault == "other data":
        path.write_text("".join(lines).replace("max(age)", "min(age)"))
    elif fault == "not JSON":
        path.write_text("".join(lines[:4]) + lines[4][:20])
    elif fault == "no predictions":
        path.unlink()
    else:
        (run / "args.json").unlink()
    before = {file: file.read_bytes() for file in run.iterdir()}
    done = command(run)
    assert done.returncode == 2 and str(run) in done.stderr and done.stderr.count("\n") == 1
    assert {file: file.read_bytes() for file in run.iterdir()} == before


def with_candidates(run: Path, number: int, *candidates: tuple[str, *tuple[float, ...]]) -> Path:
    rows, names = read_rows(run / "predictions.jsonl"), ("sql", "score", "question_score")
    rows[number] |= dict(candidates=[dict(zip(names, each)) | dict(ended=True) for each in candidates], chosen=0)
    (run / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_the_answers_of_judged_runs_vote_by_both_likelihoods(spider, tmp_path):
    one, two = (make_run(tmp_path / name, spider, GOLD[:5]) for name in ("one", "two"))
    with_candidates(one, 0, ("SELECT 1", -0.1, -3.0), (GOLD[0], -0.15, -2.0), ("SELECT 2", -0.2, -2.5))
    # of the same SQL the likelihood is known, of other SQL it is taken to be the worst
    with_candidates(two, 0, ("SELECT 1", -0.1), (GOLD[0], -0.3), ("SELECT 3", -0.2))
    done = command(one, two, "--out", tmp_path / "both")
    assert done.returncode == 0, done.stderr
    first, *_ = read_rows(tmp_path / "both" / "predictions.jsonl")
    assert (first["predicted"], first["chosen"]) == (GOLD[0], 1)
    assert [each.get("question_score") for each in first["candidates"]] == [-3.0, -2.0, -2.5, None, None, None]


def test_the_answers_of_several_runs_vote(spider, tmp_path):
    wrong = "SELECT 1"
    one = make_run(tmp_path / "one", spider, (wrong, *GOLD[1:4], wrong))
    two = make_run(tmp_path / "two", spider, (GOLD[0], *GOLD[1:4], GOLD[4]))
    with_candidates(one, 0, (wrong, -0.1), (GOLD[0], -0.11))
    with_candidates(two, 0, (GOLD[0], -0.15), ("SELECT 2", -0.3))
    before = {path: path.read_bytes() for run in (one, two) for path in run.iterdir()}
    done = command(one, two, "--out", tmp_path / "both")
    assert done.returncode == 0, done.stderr
    rows, result = (read_rows(tmp_path / "both" / "predictions.jsonl"), json.loads((tmp_path / "both/result.json").read_text()))
    assert [row["execution_match"] for row in rows] == [True] * 4 + [False]  # each has one vote for the last: the first counts
    assert (rows[0]["predicted"], rows[0]["chosen"], len(rows[0]["candidates"])) == (GOLD[0], 1, 4)
    assert (result["execution_accuracy"], result["n"], result["runs"]) == (0.8, 5, [str(one), str(two)])
    assert {path: path.read_bytes() for run in (one, two) for path in run.iterdir()} == before


@pytest.mark.parametrize("place", ["score", "question_score"])
@pytest.mark.parametrize(
    "fault", ["no --out", "own --out", "other questions", "likely", 1e6, float("nan"), -float("inf"), None, "missing"]
)
def test_runs_that_cannot_vote_are_one_line(spider, tmp_path, fault, place):
    one = make_run(tmp_path / "one", spider, GOLD[:5])
    two = make_run(tmp_path / "two", spider, GOLD[:4] if fault == "other questions" else GOLD[:5])
    if fault not in ("no --out", "own --out", "other questions"):  # as a score
        scores = () if fault == "missing" else (fault,) if place == "score" else (-0.1, fault)
        with_candidates(two, 1, ("SELECT 1", *scores))
    before = {path: path.read_bytes() for path in two.iterdir()}
    out = {"no --out": (), "own --out": ("--out", tmp_path / "x" / ".." / "two")}.get(fault, ("--out", tmp_path / "both"))
    done = command(one, two, *out)
    assert {path: path.read_bytes() for path in two.iterdir()} == before
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert ("--out" if str(fault).endswith("--out") else str(two)) in done.stderr and not (tmp_path / "both").exists()


@pytest.mark.parametrize("arguments", [[], ["run", "--predictions", "x"], ["--predictions", "x"], ["run", "--workers", "0"],
     *(["run", f"--seconds={seconds}"] for seconds in ("0", "-1", "nan", "inf", "1e10", "-inf"))])  # fmt: skip
def test_options_that_do_not_fit_are_one_line(arguments):
    done = command(*arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_lines_of_predictions_end_at_line_feeds_alone(spider, tmp_path):
    predicted = tmp_path / "predicted.sql"
    odd = "SELECT count(*) FROM singer WHERE name != 'a\u2028b\x0bc\x85d\x1ce'"
    predicted.write_bytes("\r\n".join([odd, *GOLD[1:]]).encode() + b"\r\n")
    done = command("--predictions", predicted, "--gold", spider / "dev_gold.sql", "--data", spider)
    assert done.returncode == 0 and "100.00%" in done.stdout.splitlines()[5], done.stderr


def test_the_readers_agree_with_the_loader(spider, tmp_path, benchmark_):
    gold = read_gold(spider / "dev_gold.sql", spider)
    assert gold.splits["gold"] == benchmark_.splits["dev"]
    _, examples, _, _ = read_run(make_run(tmp_path / "run", spider, GOLD), None)
    assert examples == benchmark_.splits["dev"]


# text that is made to break the scorer


def mutated(sql: str, rng: random.Random, words: list[str]) -> str:
    """A query with one to four of its words, or characters, exchanged, dropped, doubled or put in."""
    for _ in range(rng.randrange(1, 5)):
        if rng.random() < 0.5:
            parts = sql.split(" ")
            place = rng.randrange(len(parts))
            parts[place : place + rng.randrange(3)] = rng.choices(words, k=rng.randrange(3))
            sql = " ".join(parts)
        else:
            place = rng.randrange(len(sql) + 1)
            piece = rng.choice([*"'\"`[]();,.*-+/%|<>=!?:@#$\\\0\n\t0A\ud800é", "--", "/*", "*/", "||", "0x", "1e999"])
            sql = sql[:place] + piece + sql[place + rng.randrange(2) :]
    return sql


HOSTILE = (
    "DROP TABLE; DELETE FROM PRAGMA ATTACH DATABASE UNION ALL RECURSIVE WITH RETURNING INSERT INTO UPDATE SET VACUUM NULL CASE "
    "WHEN END OVER ( ) PARTITION BY NATURAL CROSS JOIN LIMIT -1 randomblob(999999999) zeroblob(99999999) load_extension('x') "
    "printf('%.*c',999999999,'a') sqlite_master SELECT * count(*) EXISTS IN NOT GLOB '*' LIKE '%%%' ESCAPE 9223372036854775808"
)


def check_hostile_text(benchmark: Benchmark, mutations: int, byte_strings: int) -> None:
    """No text raises, hangs or writes."""
    rng = random.Random(20)
    examples = benchmark.splits["dev"]
    words = [*HOSTILE.split(), *{word for example in examples for word in example.sql.split()}]
    chosen = [rng.choice(examples) for _ in range(mutations + byte_strings)]
    texts = [mutated(example.sql, rng, words) for example in chosen[:mutations]]
    texts += [rng.randbytes(rng.randrange(200)).decode("latin-1") for _ in range(byte_strings)]
    folders = benchmark.folders["dev"]

    def fingerprint() -> dict[Path, str]:
        files = (path for path in folders.rglob("*") if path.is_file())
        return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before, limit = fingerprint(), 1.0
    start = time.monotonic()
    rows = score(benchmark, "dev", texts, chosen, workers=2, seconds=limit)
    seconds = time.monotonic() - start
    assert len(rows) == len(texts)
    slow = sum(row["error"] in {execute.TIMED_OUT, execute.CRASHED} for row in rows)
    assert not any(row["error"] == execute.CRASHED for row in rows)
    assert seconds < 0.02 * len(texts) + (limit + 0.2) * slow + 5
    assert fingerprint() == before


def test_mutated_sql_and_random_bytes_neither_raise_nor_hang_nor_write():
    from data.benchmark.sample import build

    check_hostile_text(load(build(), ("dev",)), mutations=1000, byte_strings=200)


@pytest.mark.slow
def test_ten_thousand_mutations_and_a_thousand_byte_strings():
    from data.benchmark.sample import build

    check_hostile_text(load(build(), ("dev",)), mutations=10_000, byte_strings=1000)
