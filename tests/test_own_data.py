"""The README's example: one's own database, as databases are, from a file to a model that is trained, scored and asked."""

import csv
import importlib
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MESSY = """
PRAGMA journal_mode = WAL;
CREATE TABLE "order" ("order id" INTEGER, "group" TEXT, "Straße" TEXT, [Qty -- ordered] INT, 客户编号 INT,
                      PRIMARY KEY ("order id", "group"));
INSERT INTO "order" VALUES (1, 'tea', 'Königsallee', 5, 1), (1, 'ink', 'Königsallee', 2, 1), (2, 'tea', 'O''Connell St', 7, 2);
CREATE TABLE 客户 (编号 INTEGER, 客户名称 TEXT, "select" TEXT);
INSERT INTO 客户 VALUES (1, '北京公司', 'a, b'), (2, 'Müller & Söhne', NULL);
CREATE TABLE "empty table" ("x y", "(z)");
CREATE VIEW "größte Bestellungen" AS SELECT "group", max([Qty -- ordered]) AS "most ordered" FROM "order" GROUP BY "group";
CREATE VIRTUAL TABLE note USING fts5(body);
INSERT INTO note VALUES ('paid late'), ('paid in cash');
"""
ASKED = [
    ("How many orders are there?", 'SELECT count(*) FROM "order"'),
    ("List the street of each order.", 'SELECT "Straße" FROM "order"'),
    ("How much was ordered by group?", 'SELECT "group", sum([Qty -- ordered]) FROM "order" GROUP BY "group"'),
    ("北京公司有多少订单?", "SELECT count(*) FROM \"order\" JOIN 客户 ON 客户编号 = 编号 WHERE 客户名称 = '北京公司'"),
    ("Which customers have no selection?", 'SELECT 客户名称 FROM 客户 WHERE "select" IS NULL'),
    ("Which group was ordered most?", 'SELECT "group" FROM "größte Bestellungen" ORDER BY "most ordered" DESC LIMIT 1'),
    ("What is in the empty table?", 'SELECT "x y", "(z)" FROM "empty table"'),
    ("Which notes speak of cash?", "SELECT body FROM note WHERE note MATCH 'cash'"),
]
FEW = ["--update_examples", "4", "--max_updates", "3", "--max_output_tokens", "8"]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def command(*words: object) -> str:
    done = subprocess.run([sys.executable, "-m", *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["flan_t5_base", "llama_65b"])
def test_a_messy_database_becomes_a_model_that_is_scored_and_asked(run, tmp_path, capsys, name):
    script, own = importlib.import_module(name), tmp_path / "own"
    database = own / "database" / "shop.sqlite"
    database.parent.mkdir(parents=True)
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(MESSY)
    before = files(database.parent)
    assert list(before) == ["shop.sqlite"]

    command("data.spider", "--make", "--guess_foreign_keys", own)
    (entry,) = json.loads((own / "tables.json").read_text())
    assert sorted(entry["table_names_original"]) == sorted(["order", "客户", "empty table", "größte Bestellungen", "note"])
    for split, records in (("train", ASKED), ("dev", ASKED[::2])):
        with (own / f"{split}.csv").open("w", encoding="utf-8-sig", newline="") as file:
            csv.writer(file).writerows([("db_id", "question", "query"), *(("shop", *pair) for pair in records)])

    said = command("data.spider", own).splitlines()
    assert [line for line in said if "gold that" in line] == ["  gold that runs: 8 of 8", "  gold that runs: 4 of 4"]
    outside = "are outside the grammar that answers are held to, as SELECT note.body FROM note WHERE note >>> MATCH 'cash'"
    assert [line for line in said if "outside" in line] == [
        f"  1 of 8 gold statements {outside}: --no-constrained answers freely"
    ]

    done = run(script, "--data", str(own), *FEW)
    printed = capsys.readouterr().out
    assert done["result"]["n"] == 4 and sorted(done["losses"]) == [0, 1, 2]
    assert not {row["error"] for row in done["predictions"]} & {"gold fails", "database unavailable", "crashed"}
    warnings = [line for line in printed.splitlines() if line.startswith("WARNING: ")]
    assert warnings == [f"WARNING: 1 of 8 training answers {outside}: --no-constrained answers freely"]

    gold = [row | dict(predicted=row["gold"]) for row in done["predictions"]]
    (done["folder"] / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gold))
    assert "100.00%" in next(line for line in command("data.score", done["folder"]).splitlines() if line.startswith("all"))

    (tmp_path / "questions.txt").write_text("\n".join(question for question, _ in ASKED), encoding="utf-8")
    asked = ["--ask", str(tmp_path / "questions.txt"), "--db", str(database), "--max_output_tokens", "8"]
    run(script, "--model", str(done["folder"]), *asked, out="other")
    answers = [json.loads(line) for line in (tmp_path / "questions.answers.jsonl").read_text().splitlines()]
    assert [answer["question"] for answer in answers] == [question for question, _ in ASKED]
    assert files(database.parent) == before
