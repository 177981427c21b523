"""The embedded sample: what it holds, that it separates dev from train, and that building it is safe."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from data.benchmark import sample
from data.benchmark.exact_match import HARDNESS, SqlSchema, hardness
from data.benchmark.spider import load
from data.common.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
JSON_FILES = ("train_spider.json", "dev.json", "tables.json")
# clause or operator -> how an SQL text shows it
FORMS = {
    "count": r"count\(\*\)",
    "count distinct": r"count\(DISTINCT \w+\)",
    "avg": r"avg\(",
    "sum": r"sum\(",
    "min": r"min\(",
    "max": r"max\(",
    "distinct": r"SELECT DISTINCT ",
    "=": r" = (\d|')",
    "!=": r" != ",
    "<": r" < ",
    "<=": r" <= ",
    ">": r" > ",
    ">=": r" >= ",
    "like": r" LIKE '",
    "between": r" BETWEEN \d+ AND \d+",
    "and": r"(\d|') AND \w",
    "or": r" OR ",
    "group by": r" GROUP BY ",
    "having": r" HAVING ",
    "order by ascending": r" ORDER BY \S+ ASC",
    "order by descending": r" ORDER BY \S+ DESC",
    "limit 1": r" LIMIT 1$",
    "limit of several": r" LIMIT [2-9]$",
    "two tables": r" AS T1 JOIN \w+ AS T2 ON (?!.* AS T3)",
    "three tables": r" AS T2 ON .* AS T3 ON ",
    "in": r"(?<!NOT) IN \(SELECT ",
    "not in": r" NOT IN \(SELECT ",
    "comparison with an average": r" [<>] \(SELECT avg\(",
    "intersect": r" INTERSECT SELECT ",
    "union": r" UNION SELECT ",
    "except": r" EXCEPT SELECT ",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return sample.build(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def splits(built) -> dict[str, list[dict]]:
    files = {"train": "train_spider.json", "dev": "dev.json"}
    return {split: json.loads((built / file).read_text(encoding="utf-8")) for split, file in files.items()}


@pytest.fixture(scope="module")
def connections(built) -> dict[str, sqlite3.Connection]:
    opened = {path.stem: sqlite3.connect(path) for path in (built / "database").glob("*/*.sqlite")}
    yield opened
    for connection in opened.values():
        connection.close()


def test_counts(splits):
    assert len(splits["train"]) == sample.TRAIN_EXAMPLES >= 1500
    assert len(splits["dev"]) == sample.DEV_EXAMPLES >= 200
    assert all(set(example) == {"db_id", "question", "query"} for split in splits.values() for example in split)


def test_it_loads_as_spider_with_all_hardness_levels(built):
    benchmark = load(built)
    schemas = {db_id: SqlSchema(schema) for db_id, schema in benchmark.schemas.items()}
    for examples in benchmark.splits.values():
        levels = Counter(hardness(schemas[example.db_id], example.sql) for example in examples)
        assert set(levels) == set(HARDNESS)
        assert min(levels.values()) >= 0.03 * len(examples)


def test_dev_stands_apart_from_train(splits):
    for key in ("question", "query"):
        train = {" ".join(example[key].casefold().split()) for example in splits["train"]}
        dev = [" ".join(example[key].casefold().split()) for example in splits["dev"]]
        assert train.isdisjoint(dev)
        assert len(set(dev)) == len(dev)


def test_a_question_has_one_sql(splits):
    asked: dict[tuple[str, str], set[str]] = {}
    for example in splits["train"] + splits["dev"]:
        asked.setdefault((example["db_id"], example["question"].casefold()), set()).add(example["query"])
    assert all(len(sqls) == 1 for sqls in asked.values())


def test_train_knows_each_word_of_dev(splits):
    def words(example: dict) -> set[tuple[str, str]]:
        """The question's words; the SQL's names and literals, which count only within their database."""
        names = re.findall(r"'(?:[^']|'')*'|\w+", example["query"])
        asked = re.findall(r"\w+", example["question"].casefold())
        return {("", word) for word in asked} | {(example["db_id"], name) for name in names}

    known = set().union(*map(words, splits["train"]))
    for example in splits["dev"]:
        assert words(example) <= known, example


def test_every_gold_gives_rows(splits, connections):
    for example in splits["train"] + splits["dev"]:
        rows = connections[example["db_id"]].execute(example["query"]).fetchall()
        assert any(cell is not None for row in rows for cell in row), example


def test_order_and_limit_leave_nothing_to_chance(splits, connections):
    # the same rows stored in reverse, and SQLite told to return unordered rows in reverse: the answer must not change
    for db_id, connection in connections.items():
        with closing(sqlite3.connect(":memory:")) as other:
            connection.backup(other)
            other.execute("PRAGMA reverse_unordered_selects = ON")
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                other.execute(f"CREATE TABLE reversed AS SELECT * FROM {table} ORDER BY rowid DESC")
                other.execute(f"DROP TABLE {table}")
                other.execute(f"ALTER TABLE reversed RENAME TO {table}")
            for example in splits["train"] + splits["dev"]:
                if example["db_id"] == db_id and "ORDER BY" in example["query"]:
                    rows = connection.execute(example["query"]).fetchall()
                    assert other.execute(example["query"]).fetchall() == rows, example


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("split", ["train", "dev"])
def test_forms(splits, split, form):
    assert any(re.search(FORMS[form], example["query"]) for example in splits[split])


def test_sql_is_short(splits):
    lengths = [len(example["query"]) for example in splits["train"] + splits["dev"]]
    assert max(lengths) <= sample.MAX_SQL_CHARACTERS
    assert 60 <= sum(lengths) / len(lengths) <= 120


def test_questions_are_varied_and_whole(splits):
    questions = [example["question"] for example in splits["train"]]
    assert all(re.match(r"[A-Z].*[.?]$", question) and "  " not in question for question in questions)
    assert not [question for question in questions if re.search(r"[{}]|\b(each|every) [\w ]+ (who|that) have\b", question)]
    openings = Counter(" ".join(question.split()[:2]) for question in questions)
    assert len(openings) >= 20
    assert openings.most_common(1)[0][1] < 0.25 * len(questions)


def test_databases(built, splits, connections):
    assert len(connections) >= 8
    assert {example["db_id"] for example in splits["train"]} == set(connections)
    assert {example["db_id"] for example in splits["dev"]} == set(connections)
    for entry in json.loads((built / "tables.json").read_text(encoding="utf-8")):
        connection = connections[entry["db_id"]]
        assert 2 <= len(entry["table_names_original"]) <= 5
        assert entry["foreign_keys"]
        keyed = {entry["column_names_original"][column][0] for column in entry["primary_keys"]}
        assert keyed == set(range(len(entry["table_names_original"])))
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        for table in entry["table_names_original"]:
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] >= 7


def test_concurrent_builds_give_the_same_files(built, tmp_path):
    command = [sys.executable, "-c", f"from data.benchmark import sample; print(sample.build({str(tmp_path)!r}))"]
    started = [
        subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}, stdout=subprocess.PIPE, text=True)
        for seed in ("1", "2")
    ]
    for process in started:
        assert process.communicate(timeout=120)[0].strip() == str(tmp_path)
        assert process.returncode == 0
    assert load(tmp_path).summary()["sha256"] == load(built).summary()["sha256"]
    for file in JSON_FILES:
        assert (tmp_path / file).read_bytes() == (built / file).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {*JSON_FILES, "database", sample.STAMP}


@pytest.fixture
def written(built, tmp_path, monkeypatch) -> list[Path]:
    """Folders that `build` wrote to, in place of data/sample/ and of the user's cache, and without generating anew."""
    folders: list[Path] = []

    def write(directory: Path, stamp: str) -> None:
        if directory.name == "read_only":
            raise PermissionError(13, "Permission denied")
        folders.append(directory)
        shutil.copytree(built, directory, dirs_exist_ok=True)

    monkeypatch.setattr(sample, "write", write)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folders


def test_it_builds_only_what_is_missing_or_stale(written, tmp_path):
    place = tmp_path / "place"
    sample.build(place)
    sample.build(place)
    assert written == [place]
    (place / "dev.json").unlink()
    sample.build(place)
    assert written == [place] * 2
    (place / sample.STAMP).write_text("of older source", encoding="utf-8")
    sample.build(place)
    assert written == [place] * 3


def test_its_digest_follows_the_sources(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "data", tmp_path / "data", ignore=shutil.ignore_patterns("*.json", "*.sqlite", "__pycache__"))
    monkeypatch.setattr(sample, "SOURCE", tmp_path / "data" / "sample")
    found = [sample.digest()]
    for file in ("database/tram_depot/schema.sql", "database/tram_depot/lexicon.toml", "../benchmark/sample_questions.py"):
        with (tmp_path / "data" / "sample" / file).open("a", encoding="utf-8") as source:
            source.write("\n")
        found.append(sample.digest())
    assert len(set(found)) == len(found)


def test_a_read_only_checkout_falls_back_to_the_cache(written, tmp_path, monkeypatch):
    shutil.copytree(sample.SOURCE, tmp_path / "read_only", ignore=shutil.ignore_patterns("*.json", "*.sqlite", ".*"))
    monkeypatch.setattr(sample, "digest", lambda: "0" * 64)
    monkeypatch.setattr(sample, "SOURCE", tmp_path / "read_only")
    place = sample.build()
    assert place.parent == tmp_path / "cache" / "text-to-sql-sample"
    assert load(place).splits["dev"]


def test_nowhere_to_write_is_a_users_error(written, tmp_path):
    with pytest.raises(UserError, match="read_only .*writable"):
        sample.build(tmp_path / "read_only")


def test_the_command_prints_counts(built):
    command = [sys.executable, "-m", "data.sample", str(built)]
    lines = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = {line[:28].strip(): line[28:].replace(",", "").split() for line in lines[1:]}
    assert rows["examples"] == [str(sample.TRAIN_EXAMPLES), str(sample.DEV_EXAMPLES)]
    assert {"easy", "medium", "hard", "extra", "nested", "join", "lighthouses"} <= set(rows)


@pytest.mark.parametrize("words", [["DIR"], ["--forse"]])
def test_the_command_writes_over_nobodys_data(tmp_path, words):
    (tmp_path / "dev.json").write_text("[]")
    words = [str(tmp_path) if word == "DIR" else word for word in words]
    done = subprocess.run([sys.executable, "-m", "data.sample", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr and words[0] in done.stderr
    assert (tmp_path / "dev.json").read_text() == "[]" and len(list(tmp_path.iterdir())) == 1
