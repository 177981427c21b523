"""The page of a run's predictions, `report.html`: a single file that works offline.

    python3 -m data.page RUN [--data DIR]     makes it again from a run's files

It shows the figures by hardness and by error class, and every dev example with its question, schema, gold and predicted SQL,
their difference and both results. Text of data or model is never markup: the page reads it from one JSON element, and only
the page's own script may run.
"""

import argparse
import base64
import difflib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data.answers.score import executable, read_run, seconds_of, totals
from data.benchmark.prompt import gold_to_run, one_line
from data.benchmark.sample import directory_of
from data.benchmark.schema import Benchmark, Schema
from data.common.errors import UserError, printable
from data.common.files import read_object, write_atomically
from data.sqlite.execute import TIMED_OUT, TOO_LARGE, Executor, Result, explained

TEMPLATE = Path(__file__).with_name("page.html")
PAIRS = 20_000  # of equal tokens in two statements, up to which their full difference is computed
ROWS = 10  # shown of each result
COLUMNS = 20
WIDTH = 80  # characters shown of a value
TOKEN = re.compile(r"""'[^']*'?|"[^"]*"?|`[^`]*`?|\w+|[<>!=]=|<>|\s+|.""", re.DOTALL)


def write(folder: Path, benchmark: Benchmark, rows: Sequence[dict], result: dict) -> None:
    """Write `report.html` of a run.

    `rows` are those of `predictions.jsonl`, as `data.answers.candidates.scored` returns them, all of the evaluated split;
    `result` is that of `result.json`, with the scoring rules if these are not a run's. Gold and predicted SQL are run again as
    for scoring, with the run's --seconds.
    """
    distinct = "kept" if result.get("distinct") == "kept" else "dropped"
    results, places = shown_results(benchmark, rows, distinct == "kept", seconds_of(folder))
    names = ("script", "model", "method", "gpus", "gpu_name", "updates", "data")
    figures = totals(rows)
    content = {
        "head": {name: result.get(name) for name in names} | {"started": started(folder), "rules": f"DISTINCT {distinct}"},
        "figures": {name: value for name, value in figures.items() if name != "partial"},
        "schemas": {db_id: described(benchmark.schemas[db_id]) for db_id in sorted({row["db_id"] for row in rows})},
        "results": results,
        "examples": [example(row, place) for row, place in zip(rows, places)],
    }
    write_atomically(folder / "report.html", filled(TEMPLATE.read_text(encoding="utf-8"), content))


def started(folder: Path) -> str:
    """The date on which a run was started; "" if its folder does not say."""
    try:
        return str(read_object(folder / "args.json", "").get("started", ""))[:10]
    except UserError:
        return ""


def filled(template: str, content: dict) -> str:
    """Fill the template with the data and the hash that permits its script (Content Security Policy, level 2), and no other."""
    finite = json.loads(json.dumps(content), parse_constant=lambda _: None)  # a browser's JSON has no NaN
    text = json.dumps(finite, ensure_ascii=False, separators=(",", ":"))
    # escape what could end the element that holds it; replace lone surrogates, which a model may write and UTF-8 lacks
    text = text.encode(errors="replace").decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template.replace("SCRIPT_HASH", digest).replace('"DATA"', text)


def example(row: dict, places: tuple[int, int]) -> dict:
    """One example in the page's format; pieces of SQL alternate between common and differing ones."""
    gold, predicted = marked(one_line(row["gold"]), one_line(row["predicted"]))
    return {
        "index": row["index"],
        "db": row["db_id"],
        "question": row["question"],
        "right": row["execution_match"],
        "exact": row["exact_match"],
        "hardness": row["hardness"],
        "error": row["error"] or "",
        "message": explained(row["error"], row.get("message") or "") if row["error"] else "",
        "gold": gold,
        "predicted": predicted,
        "results": places,
        "candidates": [candidate(each) for each in row.get("candidates") or []],
        "chosen": row.get("chosen", 0),
    }


def candidate(each: dict) -> dict:
    """One of several answers in the page's format."""
    scores = {name: each.get(name) for name in ("score", "question_score")}
    return {
        "sql": one_line(str(each.get("sql", ""))),
        **{name: f"{score:.3f}" if isinstance(score, int | float) else "" for name, score in scores.items()},
        "outcome": each.get("error") or f"{each.get('rows', 0):,} row{'' if each.get('rows') == 1 else 's'}",
    }


def marked(gold: str, predicted: str) -> tuple[list[str], list[str]]:
    """Both texts in pieces: the first, third, ... are common, the others differ. Case counts only within quotes.

    For texts with too many repetitions (PAIRS), only a common beginning and end are found.
    """
    sides = [TOKEN.findall(text) for text in (gold, predicted)]
    first, second = (
        [token if token[0] in "'\"`" else " " if token.isspace() else token.lower() for token in side] for side in sides
    )
    counts = Counter(first), Counter(second)
    if sum(count * counts[1][token] for token, count in counts[0].items()) <= PAIRS:
        codes = difflib.SequenceMatcher(None, first, second, autojunk=False).get_opcodes()
    else:
        start = len(os.path.commonprefix([first, second]))
        end = len(os.path.commonprefix([first[start:][::-1], second[start:][::-1]]))
        a, b = len(first), len(second)
        codes = [("equal", 0, start, 0, start), ("replace", start, a - end, start, b - end), ("equal", a - end, a, b - end, b)]
    pieces: tuple[list[str], list[str]] = ([""], [""])
    for kind, *spans in codes:
        for side, tokens, (start, stop) in zip(pieces, sides, (spans[:2], spans[2:])):
            text = "".join(tokens[start:stop])
            if not text:
                continue
            if (kind == "equal") == (len(side) % 2 == 1):
                side[-1] += text
            else:
                side.append(text)
    return pieces


def described(schema: Schema) -> list[dict]:
    """A schema's tables, each with its columns and their keys."""
    refers = {
        child: f"{schema.tables[schema.columns[parent][0]]}.{schema.columns[parent][1]}"
        for child, parent in schema.foreign_keys
    }
    return [
        {
            "table": name,
            "columns": [
                {"name": column, "primary": i in schema.primary_keys, "refers": refers.get(i, "")}
                for i, (table, column) in enumerate(schema.columns)
                if table == number
            ],
        }
        for number, name in enumerate(schema.tables)
    ]


def shown_results(
    benchmark: Benchmark, rows: Sequence[dict], keep_distinct: bool, seconds: float
) -> tuple[list[dict], list[tuple[int, int]]]:
    """Results of all different statements, and for each row the indices of its gold's and its prediction's; -1: not run."""
    found: dict[tuple[Path, str], int] = {}
    places = []
    for row in rows:
        database = benchmark.databases(row["db_id"], benchmark.evaluated)[0]
        pair = []
        for sql, failed in ((gold_to_run(row["gold"]), False), (row["predicted"], row["error"] in (TIMED_OUT, TOO_LARGE))):
            job = (database, executable(sql, keep_distinct))
            if failed or not sql.strip():  # its outcome is known
                pair.append(-1)
                continue
            if job not in found:
                found[job] = len(found)
            pair.append(found[job])
        places.append(tuple(pair))
    with Executor(seconds=seconds) as executor:
        return list(map(shown, executor.run(found, keep=ROWS))), places


def shown(result: Result) -> dict:
    """The first rows of a result as text, and the number of rows; or its error."""
    if result.rows is None:
        return {"error": explained(result.error, result.message)}
    rows = [[cut(value) for value in row[:COLUMNS]] for row in result.rows]
    return {"columns": [cut(name) for name in result.columns[:COLUMNS]], "rows": rows, "n": result.count}


def cut(value: object) -> str | None:
    """A value as text of at most WIDTH characters; None is NULL."""
    if value is None:
        return None
    text = f"x'{value[:WIDTH].hex()}'" if isinstance(value, bytes) else str(value)
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m data.page", description="Make report.html from the files of a run.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--data", metavar="DIR", help="Spider's directory, or `sample`, if not what the run names")
    args = parser.parse_args()
    data = None if args.data is None else directory_of(args.data)
    benchmark, _, rows, result = read_run(args.run, data)
    scored = all({"question", "execution_match", "exact_match", "hardness", "error"} <= row.keys() for row in rows)
    if not result or not scored:
        raise UserError(f"{args.run} is not scored yet: python3 -m data.score {args.run} does it")
    write(args.run, benchmark, rows, result)
    print(printable(f"the page: {args.run / 'report.html'}"))
