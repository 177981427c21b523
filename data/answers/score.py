"""Score predictions as Spider does: execution accuracy, exact set match, hardness, and what went wrong.

    python3 -m data.score RUN_FOLDER
    python3 -m data.score RUN_FOLDER RUN_FOLDER --out OUT
    python3 -m data.score --predictions predicted.sql --gold dev_gold.sql --data DIR --out OUT

The first form scores a run's `predictions.jsonl` again, with the data that its `args.json` names (or `--data`), and
rewrites it and the figures in `result.json`. In the second the answers of several runs vote, as those of two trainings, with
all their candidates (`vote`); what is chosen is scored. The third scores one prediction a line against `SQL<tab>db_id` lines,
as the line stands, or with `--clean` what SQL a run would take out of it; `--out` writes `predictions.jsonl` and `result.json`.
No model is needed, nor any package that runs one.

The rules are those of the official test-suite scorer (https://github.com/taoyds/test-suite-sql-eval; Yu et al., 2018,
https://arxiv.org/abs/1809.08887; Zhong et al., 2020, https://arxiv.org/abs/2010.02840). Execution compares the rows of
gold and prediction on every SQLite file in the database's folder (`execute.rows_match`); exact set match and hardness
stand in `exact_match`. Figures are comparable only under equal rules, so these are recorded with them: whether DISTINCT was
dropped (official) or kept, and whether values are the prediction's own or plugged in from the gold.
"""

import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data.answers.vote import vote
from data.benchmark.exact_match import CLAUSES, EMPTY, HARDNESS, SqlSchema, comparable, exact, hardness, partial_scores
from data.benchmark.prompt import clean_sql, gold_to_run, target
from data.benchmark.sample import directory_of
from data.benchmark.schema import Benchmark, Example
from data.benchmark.spider import MEND_EXAMPLES, check_database, files_of, load, read_schemas
from data.common.commands import command_parser
from data.common.errors import UserError
from data.common.files import read_object, read_records, write_atomically
from data.sqlite.execute import ERROR_CLASSES, GOLD_FAILS, MAX_SECONDS, TOO_LONG, Comparison, Executor, Limits

# an unclosed quote extends to the end, as otherwise a text full of them would take quadratic time
STRING = r"""'(?:[^']|'')*+(?:'|$)|"(?:[^"]|"")*+(?:"|$)"""
QUOTED = rf"{STRING}|`[^`]*(?:`|$)|\[[^\]]*(?:\]|$)"
COMMENT = r"--[^\n]*|/\*[\s\S]*?(?:\*/|\Z)"
# IS DISTINCT FROM is an operator
CHANGED = re.compile(
    rf"({QUOTED}|{COMMENT})|([<>!]) =|\b(YEAR\s*\(\s*CURDATE\s*\(\s*\)\s*\))|\bDISTINCT\b(?!\s+FROM\b)", re.IGNORECASE
)
VALUE = re.compile(rf"({STRING}|(?<![\w.])\d+(?:\.\d+)?(?![\w.]))")
MAX_PLUGGED = 1000  # statements per prediction with --plug_values; enough for three values in six places


def score(
    benchmark: Benchmark,
    split: str,
    predictions: Sequence[str],
    examples: Sequence[Example] | None = None,
    progress: bool = False,
    keep_distinct: bool = False,
    plug_values: bool = False,
    workers: int | None = None,
    seconds: float = Limits.seconds,
) -> list[dict]:
    """Score a prediction for each of `examples` (default: all of the split) -> a row for each, in order.

    Its keys are those of `predictions.jsonl`, then `message` and `partial`. `error` is None for an execution match, else one of
    `data.sqlite.execute.ERROR_CLASSES`; `partial` holds, by clause, [match, parts in the prediction, parts in the gold], and is
    empty where the gold is outside Spider's dialect. `keep_distinct`: DISTINCT counts in execution (official: it is dropped
    from gold and prediction). `plug_values`: a prediction is right in execution if it is so with its own values, or with some
    choice of the gold's in their place. `workers` and `seconds` are those of `data.sqlite.execute.Executor`.
    Raises ValueError where the numbers of predictions and examples differ, but never for the text of either.
    """
    examples = benchmark.splits[split] if examples is None else examples
    if len(predictions) != len(examples):
        raise ValueError(f"{len(predictions)} predictions for {len(examples)} examples")
    names = {example.db_id for example in examples}
    paths = {db_id: tuple(benchmark.databases(db_id, split)) for db_id in names}
    schemas = {db_id: SqlSchema(benchmark.schemas[db_id]) for db_id in names}
    jobs, owners = [], []
    for number, (example, predicted) in enumerate(zip(examples, predictions)):
        gold = executable(gold_to_run(example.sql), keep_distinct)
        ordered = re.search(r"\border\s+by\b", target(example.sql), re.IGNORECASE) is not None
        for text in plugged(example.sql, predicted) if plug_values else (predicted,):
            jobs.append(Comparison(paths[example.db_id], gold, executable(text, keep_distinct), ordered))
            owners.append(number)
    verdicts = {}
    with Executor(workers, seconds) as executor:
        for number, verdict in zip(owners, executor.compare(jobs, progress)):
            if number not in verdicts or verdict.match and not verdicts[number].match:
                verdicts[number] = verdict
    rows = []
    for number, (example, predicted) in enumerate(zip(examples, predictions)):
        schema = schemas[example.db_id]
        gold, query = comparable(schema, example.sql), comparable(schema, predicted)
        # unreadable gold matches only its own text; the official scorer stops there
        same = exact(gold, query) if gold is not EMPTY else target(predicted).split() == target(example.sql).split()
        partial = {} if gold is EMPTY else {name: list(part) for name, part in partial_scores(gold, query).items()}
        rows.append(
            {
                "index": example.index,
                "db_id": example.db_id,
                "question": example.question,
                "gold": example.sql,
                "predicted": predicted,
                "execution_match": verdicts[number].match,
                "exact_match": same,
                "hardness": hardness(schema, example.sql),
                "error": verdicts[number].error,
                "message": verdicts[number].message,
                "partial": partial,
            }
        )
    return rows


def executable(sql: str, keep_distinct: bool = False) -> str:
    """The statement to run, changed as by the official scorer, but only outside quotes and comments.

    DISTINCT is dropped unless `keep_distinct`, `> =` is joined, and `YEAR(CURDATE())`, which SQLite lacks, becomes 2020.
    """

    def change(match: re.Match) -> str:
        quoted, sign, year = match.groups()
        return quoted or (sign + "=" if sign else "2020" if year else match[0] if keep_distinct else "")

    return CHANGED.sub(change, sql)


def plugged(gold: str, predicted: str) -> list[str]:
    """The prediction, then up to MAX_PLUGGED variants of it with the gold's values, in every choice, in place of its own.

    Values are quoted strings and numbers. As in the official scorer, the unchanged prediction comes first.
    """
    values = list(dict.fromkeys(VALUE.findall(gold)))
    pieces = VALUE.split(predicted)
    places = len(pieces) // 2
    statements = [predicted]
    if not values or not places:
        return statements
    for choice in itertools.islice(itertools.product(values, repeat=places), MAX_PLUGGED):
        pieces[1::2] = choice
        statements.append("".join(pieces))
    return list(dict.fromkeys(statements))


def interval(successes: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson, 1927), as fractions; (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    z = 1.959964  # the normal distribution's 97.5 % quantile
    share, shrink = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


def totals(rows: Sequence[dict]) -> dict:
    """The figures of scored rows, as fractions, with the ends of their 95 % intervals (`_low`, `_high`).

    They are `execution_accuracy`, `exact_match` and `n`; the same by level under `by_hardness`; the number and share of each
    class that occurs under `errors`; and precision, recall and F1 of each clause under `partial`, with precision over the
    predictions that have the clause and recall over the gold that has it. Every row counts, also where the gold fails.
    """

    def share(hits: int, n: int, name: str) -> dict[str, float]:
        low, high = interval(hits, n)
        return {name: hits / n if n else 0.0, f"{name}_low": low, f"{name}_high": high}

    def figures(part: Sequence[dict]) -> dict[str, float]:
        matches = sum(row["execution_match"] for row in part)
        exact_matches = sum(row["exact_match"] for row in part)
        return {
            **share(matches, len(part), "execution_accuracy"),
            **share(exact_matches, len(part), "exact_match"),
            "n": len(part),
        }

    by_hardness = {level: figures([row for row in rows if row["hardness"] == level]) for level in HARDNESS}
    counts = {name: sum(row["error"] == name for row in rows) for name in ERROR_CLASSES}
    errors = {name: {"n": count, **share(count, len(rows), "share")} for name, count in counts.items() if count}
    partial = {}
    for clause in CLAUSES:
        parts = [row["partial"][clause] for row in rows if row.get("partial")]
        precision = _mean([match for match, predicted, _ in parts if predicted])
        recall = _mean([match for match, _, gold in parts if gold])
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        partial[clause] = {"precision": precision, "recall": recall, "f1": f1}
    return {**figures(rows), "by_hardness": by_hardness, "errors": errors, "partial": partial}


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 1.0


# ---------------------------------------------------------------------------------------------------------------------
# the command


def read_gold(path: Path, root: Path) -> Benchmark:
    """Read `SQL<tab>db_id` lines as the split "gold", with schemas and databases from a directory in Spider's layout.

    Questions come from the directory's split with the same queries, if there is one. Raises UserError, naming the file, for a
    line without db_id and for an unknown db_id.
    """
    pairs = []
    for number, line in enumerate(_lines(path), 1):
        sql, _, db_id = line.rpartition("\t")
        if not target(sql) or not db_id.strip():
            raise UserError(f"{path}, line {number}: SQL, a tab and a db_id are expected: give the gold file of the split")
        pairs.append((sql.strip(), db_id.strip()))
    if not pairs:
        raise UserError(f"{path} holds no queries: give the gold file of the split")
    if not root.is_dir():
        raise UserError(f"data directory {root} does not exist: name Spider's directory with --data")
    names = {db_id for _, db_id in pairs}
    missing = names
    for tables, folder in dict.fromkeys(files_of(root, split)[1:] for split in ("dev", "test")):
        if tables.is_file():
            schemas = read_schemas(tables)
            missing = names - schemas.keys()
            if not missing:
                break
    if missing:
        raise UserError(f"no tables file in {root} has the database {min(missing)} of {path}: check --data and --gold")
    questions = _questions(pairs, root)
    examples = [Example(i, db_id, question, sql) for i, ((sql, db_id), question) in enumerate(zip(pairs, questions))]
    return Benchmark(root, schemas, {"gold": examples}, {"gold": folder})


def _lines(path: Path) -> list[str]:
    """The lines of a file, split only at line feeds, as by the official scorer."""
    try:
        lines = path.read_bytes().decode("utf-8-sig", "replace").split("\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its name") from None
    return [line.removesuffix("\r") for line in (lines[:-1] if not lines[-1] else lines)]


def _questions(pairs: Sequence[tuple[str, str]], root: Path) -> list[str]:
    """The questions of the split that has exactly these queries; empty ones if none has."""
    wanted = [(sql.split(), db_id) for sql, db_id in pairs]
    for splits in (["dev"], ["test"], ["train"], ["train_others"], ["train", "train_others"]):
        paths = [files_of(root, split)[0] for split in splits]
        if all(path.is_file() for path in paths):
            entries = [entry for path in paths for entry in read_records(path, MEND_EXAMPLES)]
            if [(str(entry.get("query")).split(), entry.get("db_id")) for entry in entries] == wanted:
                return [str(entry.get("question", "")).strip() for entry in entries]
    return [""] * len(pairs)


def read_run(folder: Path, data: Path | None) -> tuple[Benchmark, list[Example], list[dict], dict]:
    """A run's benchmark, the examples that it predicted, its `predictions.jsonl` and its `result.json` ({} if missing).

    Raises UserError where a file is missing or malformed, or where predictions and data do not belong together.
    """
    record = read_object(folder / "args.json", "name a run folder")
    if not (folder / "predictions.jsonl").exists():
        raise UserError(f"the run in {folder} has no predictions yet: it writes them at its end, as --eval_only does")
    result = {}
    if (folder / "result.json").is_file():
        result = read_object(folder / "result.json", "remove it to have it made anew")
    if data is None:
        try:
            data = Path(record["data"]["directory"])
        except (KeyError, TypeError):
            raise UserError(f"{folder / 'args.json'} names no data directory: give it with --data") from None
    options = record["args"] if isinstance(record.get("args"), dict) else {}
    if isinstance(overfit := options.get("overfit"), int) and overfit > 0:
        benchmark = load(data, ("train",), bool(options.get("train_others")), overfit=overfit)
    else:
        benchmark = load(data, ("test" if options.get("split") == "test" else "dev",))
    split = benchmark.splits[benchmark.evaluated]
    path = folder / "predictions.jsonl"
    rows, examples = read_records(path, "run the evaluation again", errors="replace"), {}
    for number, row in enumerate(rows, 1):
        try:
            index, predicted, gold = row["index"], row["predicted"], (row["db_id"], row["gold"])
        except KeyError:
            raise UserError(f"{path}, line {number} is no scored prediction: run the evaluation again") from None
        known = isinstance(index, int) and 0 <= index < len(split) and isinstance(predicted, str)
        if not known or (split[index].db_id, split[index].sql) != gold:
            of = f"the {benchmark.evaluated} split in {data}"
            raise UserError(f"{path}, line {number} is not of {of}: name the run's data with --data")
        if index in examples:
            raise UserError(f"{path}, line {number}: example {index} stands there twice: run the evaluation again")
        examples[index] = split[index]
    expected = result.get("n")
    if not rows or isinstance(expected, int) and expected != len(rows):
        raise UserError(f"{path} holds {len(rows)} predictions, result.json counts {expected or 'none'}: evaluate again")
    return benchmark, list(examples.values()), rows, result


def voted(
    folders: Sequence[Path], data: Path | None, workers: int | None, seconds: float
) -> tuple[Benchmark, list[Example], list[dict]]:
    """Several runs' answers to the same questions as those of one: its benchmark, examples and rows of `predictions.jsonl`.

    Rows hold the candidates of all, and the index of the one `chosen`. Raises UserError where runs do not answer the same.
    """
    read = [read_run(folder, data) for folder in folders]
    benchmark, examples, first, _ = read[0]
    pools: list[list[dict]] = [[] for _ in first]
    for folder, (_, asked, rows, _) in zip(folders, read):
        answers = dict(zip((example.index for example in asked), rows))
        if {example.index: example for example in asked} != {example.index: example for example in examples}:
            raise UserError(f"{folders[0]} and {folder} do not answer the same questions: evaluate both on the same data")
        for pool, example in zip(pools, examples):
            row = answers[example.index]
            try:
                several = row.get("candidates") or [dict(sql=row["predicted"], score=0.0, ended=not row.get("cut"))]
                for each in several:
                    names = ("score", "question_score") if "question_score" in each else ("score",)
                    likely = {name: float(each[name]) for name in names}
                    if not all(-math.inf < value <= 0 for value in likely.values()):
                        raise ValueError("a likelihood over 1, or none")
                    pool.append(dict(sql=str(each["sql"]), ended=bool(each["ended"])) | likely)
            except (KeyError, TypeError, ValueError):
                raise UserError(f"{folder}: example {example.index} has broken candidates: evaluate again") from None
    databases = [benchmark.databases(example.db_id, benchmark.evaluated)[0] for example in examples]
    with Executor(workers, seconds=seconds) as executor:
        places = vote(executor, list(zip(databases, pools)), True)
    chosen = [
        {**row, "predicted": pool[place]["sql"], "cut": not pool[place]["ended"], "candidates": pool, "chosen": place}
        for row, pool, place in zip(first, pools, places)
    ]
    return benchmark, examples, chosen


def seconds_of(folder: Path) -> float:
    """A statement's limit in a run, its --seconds; the default where its folder does not say."""
    try:
        seconds = float(read_object(folder / "args.json", "")["args"]["seconds"])
    except (UserError, KeyError, TypeError, ValueError):
        return Limits.seconds
    return seconds if 0 < seconds <= MAX_SECONDS else Limits.seconds


def check_databases(benchmark: Benchmark, split: str, examples: Sequence[Example]) -> None:
    """Raise UserError for a database file that is missing or not SQLite."""
    for db_id in sorted({example.db_id for example in examples}):
        for path in benchmark.databases(db_id, split):
            if not path.exists():
                raise UserError(f"the database {path} is missing: check --data and --databases")
            check_database(path)


def report(rows: Sequence[dict], figures: dict, rules: dict[str, str]) -> str:
    """The figures as a table, the error classes, and the gold queries that fail."""

    def cell(part: dict, name: str) -> str:
        low, high = part[f"{name}_low"], part[f"{name}_high"]
        return f"{part[name]:7.2%} ({low:.1%} to {high:.1%})".rjust(28) if part["n"] else "-".rjust(28)

    lines = [f"{'':10}{'n':>7}{'execution accuracy (95 %)':>28}{'exact match (95 %)':>28}"]
    for name, part in (*figures["by_hardness"].items(), ("all", figures)):
        lines.append(f"{name:10}{part['n']:7,}{cell(part, 'execution_accuracy')}{cell(part, 'exact_match')}")
    lines.append(f"DISTINCT {rules['distinct']}, values {rules['values']}")
    for name, part in figures["errors"].items():
        lines.append(f"{name:22}{part['n']:7,} {part['share']:7.2%} ({part['share_low']:.1%} to {part['share_high']:.1%})")
    for row in rows:
        if row["error"] == GOLD_FAILS:
            lines.append(f"gold fails: example {row['index']}, {row['db_id']}: {row['message']}")
    return "\n".join(lines)


def main() -> None:
    parser = command_parser("score", __doc__)
    help = "score this run's predictions again, or let the answers of several vote"
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN_FOLDER", help=help)
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="one SQL a line")
    parser.add_argument("--gold", type=Path, metavar="FILE", help="SQL, tab and db_id a line")
    parser.add_argument("--data", metavar="DIR", help="directory in Spider's layout, or `sample`")
    parser.add_argument("--clean", action="store_true", help="take the SQL out of each prediction first, as a run does")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write predictions.jsonl and result.json here")
    parser.add_argument("--databases", type=Path, metavar="DIR", help="test suite: DIR/<db_id>/*.sqlite, all must agree")
    parser.add_argument("--plug_values", action="store_true", help="try the gold's values in place of the prediction's")
    parser.add_argument("--keep_distinct", action="store_true", help="DISTINCT counts (official: it is dropped)")
    parser.add_argument("--seconds", type=float, default=None, help="limit of one statement (default: the run's, else 5)")
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one a core, at most 8)")
    args = parser.parse_args()
    if bool(args.runs) == bool(args.predictions):
        raise UserError("give either a run folder or --predictions, --gold and --data")
    if len(args.runs) > 1 and not args.out:
        raise UserError("the answers of several runs go into a folder of their own: name it with --out")
    if len(args.runs) > 1 and args.out.resolve() in [run.resolve() for run in args.runs]:
        raise UserError(f"{args.out} is one of the runs: name another folder with --out")
    if args.clean and args.runs:
        raise UserError("--clean is for --predictions: those of a run are cleaned already")
    if args.workers is not None and args.workers < 1:
        raise UserError("--workers has to be positive")
    if args.seconds is None:
        args.seconds = max(map(seconds_of, args.runs), default=Limits.seconds)
    if not 0 < args.seconds <= MAX_SECONDS:
        raise UserError(f"--seconds has to be positive, and {MAX_SECONDS:g} at most")
    data = None if args.data is None else directory_of(args.data)

    result, earlier = {}, []
    if args.runs:
        if len(args.runs) > 1:
            benchmark, examples, earlier = voted(args.runs, data, args.workers, args.seconds)
            result = dict(runs=list(map(str, args.runs)))
        else:
            benchmark, examples, earlier, result = read_run(args.runs[0], data)
        split, out = benchmark.evaluated, args.out or args.runs[0]
        predictions = [clean_sql(row["predicted"]) for row in earlier]
    else:
        if args.gold is None or data is None:
            raise UserError("--predictions needs --gold, the gold file, and --data, the directory with tables.json")
        split, out = "gold", args.out
        benchmark = read_gold(args.gold, data)
        examples, lines = benchmark.splits[split], _lines(args.predictions)
        if len(lines) != len(examples):
            raise UserError(
                f"{args.predictions} holds {len(lines)} predictions, {args.gold} {len(examples)} queries: "
                "give one line a query, an empty one where there is no prediction"
            )
        # some systems write the db_id after the SQL, as gold files do
        predictions = [line.removesuffix(f"\t{example.db_id}") for line, example in zip(lines, examples)]
        if args.clean:
            predictions = list(map(clean_sql, predictions))
    if args.databases:
        benchmark = replace(benchmark, folders=benchmark.folders | {split: args.databases})
    check_databases(benchmark, split, examples)
    how = dict(keep_distinct=args.keep_distinct, plug_values=args.plug_values, workers=args.workers, seconds=args.seconds)
    rows = score(benchmark, split, predictions, examples, True, **how)
    for old, row in zip(earlier, rows):
        if old.get("error") == TOO_LONG and not row["predicted"]:
            row |= dict(error=TOO_LONG, message=old.get("message", ""))
    rules = dict(  # without which a figure cannot be compared
        distinct="kept" if args.keep_distinct else "dropped",
        values="plugged in from the gold" if args.plug_values else "predicted",
    )
    figures = totals(rows)
    print(report(rows, figures, rules))
    if out:
        rows = [{**old, **row} for old, row in zip(earlier or [{}] * len(rows), rows)]
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_atomically(out / "predictions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
            write_atomically(out / "result.json", json.dumps({**result, **figures, **rules}, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"{out} cannot be written ({error.strerror}): name another folder with --out") from None
