"""Ask a model questions about any SQLite file, and run the SQL that it writes.

A single question, and questions typed on the terminal, are answered there; those of a file are answered in another file.
"""

import csv
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from data.answers.vote import vote
from data.benchmark import sample
from data.benchmark.schema import Schema, database_file
from data.benchmark.spider import files_of, read_schemas, schema_of_database
from data.benchmark.values import Values
from data.common.errors import UserError, printable
from data.common.files import ending_of, read_records, read_text, write_atomically
from data.run.checkpoints import checkpoint_of
from data.run.signals import Stop
from data.sqlite.execute import TOO_LONG, Executor, Result, explained

ROWS = 20  # of a result that are printed or written, at most
WIDTH = 40  # characters of a printed value, at most
CHUNK = 200  # questions of a file that are asked, and their answers written, at once
NO_DATABASE = "--ask needs a database: name a SQLite file with --db FILE"
ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".txt")  # of files of questions
FIELDS = ("question", "db", "sql", "error", "row_count", "columns", "rows")  # of an answer in a file
# (columns as for `encode`, schemas) -> for each row the candidates (`answers.candidates`); None once a signal asks to stop
Answer = Callable[[dict, dict[str, Schema]], list[list[dict]] | None]


def drop_bare_ask(argv: list[str]) -> list[str]:
    """Remove an `--ask` without a question from the arguments: questions are then read from the terminal.

    Raises UserError where no --db would be left of what is asked.
    """
    following = [*argv[1:], "--"]
    kept = [word for word, after in zip(argv, following) if word != "--ask" or not after.startswith("--")]
    if len(kept) < len(argv) and not any(word.split("=")[0] == "--db" for word in kept):
        raise UserError(NO_DATABASE)
    return kept


def names_file(asked: str | None) -> bool:
    """Whether the value of --ask is the name of a file of questions, not a question itself."""
    ending = ending_of(Path(asked or ""))
    return ending in ENDINGS and (os.path.exists(asked) or not any(map(str.isspace, asked)))


def conversation(options: Mapping, base: Mapping) -> "Conversation | QuestionFile":
    """What the options --ask and --db of a script ask; `base` is that of `checkpoints.base_of`.

    Raises UserError, before a model is loaded, for a database or a file of questions that cannot be read, and for an untrained
    model.
    """
    if names_file(options["ask"]):
        talk = QuestionFile(Path(options["ask"]), options, base)
    else:
        path = Path(options["db"])
        talk = Conversation(options["ask"], Database(path, schema_of_database(path), base), options["seconds"])
    if (base["tiny"] or base["random_weights"]) and not checkpoint_of(options["model"]):
        raise UserError("random weights know no answers: train first, or name a run with --model")
    return talk


class Database:
    """A SQLite file for questions; `base` says whether the model was trained with mentioned cells and full names."""

    def __init__(self, path: Path, schema: Schema, base: Mapping):
        self.path = path
        self.values = Values(path, schema) if base["values"] else None
        self.schema = replace(schema, full_names=bool(base["full_names"]))

    def mentioned(self, question: str) -> list[dict]:
        return self.values.mentioned(question) if self.values else []


class Conversation:
    """One question about a database, or, where it is None, those typed until end of input; answers go to the terminal."""

    def __init__(self, question: str | None, database: Database, seconds: float):
        self.question, self.database, self.seconds = question, database, seconds

    def go(self, answer: Answer, stop: Stop) -> None:
        """Print each answer's SQL and its result, run read-only under the scorer's limits.

        Raises UserError for a question that is too long; for a typed one this is printed instead, and the next is read.
        """
        path, schema = self.database.path, self.database.schema
        with Executor(workers=1, seconds=self.seconds) as executor:
            for question in [self.question] if self.question is not None else typed(schema):
                question = well_formed(question)
                asked = dict(question=[question], db_id=[""], values=[self.database.mentioned(question)], sql=[""])
                try:
                    (proposed,) = answer(asked, {"": schema})
                    (place,) = vote(executor, [(path, proposed)])
                    if proposed[place].get("error") == TOO_LONG:
                        raise UserError(proposed[place]["message"])
                except UserError as error:
                    if self.question is not None:
                        raise
                    print(f"error: {printable(str(error))}")
                    continue
                sql = proposed[place]["sql"]
                print(printable(sql) or "the model wrote no SQL", flush=True)
                if sql:
                    (result,) = executor.run([(path, sql)], keep=ROWS)
                    print(explained(result.error, result.message) if result.error else table(result))


class QuestionFile:
    """A file of questions, and a file of their answers, which grows with them; questions answered there are not asked again.

    A question is a line (`.txt`), or the `question` of a record, whose `db` or `db_id`, else --db, names its database: a SQLite
    file, relative to the working directory or to the file of questions, or a database of --data. Its answer is a record of
    FIELDS: what was asked, the SQL, why it did not run (or None), how many rows it returned, their columns, and the first ROWS.
    In a `.csv` the last two are JSON. Raises UserError where a file, a question or a database is missing or malformed.
    """

    def __init__(self, path: Path, options: Mapping, base: Mapping):
        self.path, self.options, self.base = path, options, base
        self.databases: dict[str, Database] = {}
        stem = Path(path.name.removesuffix(".gz")).stem
        self.output = Path(options["answers"] or path.with_name(f"{stem}.answers.jsonl"))
        self.csv = self.output.suffix == ".csv"
        if not self.csv and self.output.suffix != ".jsonl":
            raise UserError(f"--answers {self.output} says not how they are to be written: name a .jsonl or a .csv")
        self.asked, self.stamp = self._read(), self._stamp()
        self.text, held = self._held()
        self.waiting = []
        for key in self.asked:  # a question that occurs twice is answered twice
            held[key] -= 1
            self.waiting += [key] if held[key] < 0 else []
        self._write([])

    def _read(self) -> list[tuple[str, str]]:
        """Read the file of questions -> (database, question) of each record."""
        remedy = f"give a {', '.join(ENDINGS[:-1])} with a question each, or a .txt of lines"
        if ending_of(self.path) == ".txt":
            lines = read_text(self.path, remedy, "replace").split("\n")
            records = [dict(question=line) for line in lines if line.strip()]
        else:
            records = read_records(self.path, remedy, "replace")
        asked = []
        for number, record in enumerate(records, 1):
            question, name = record.get("question"), record.get("db") or record.get("db_id") or self.options["db"]
            if not isinstance(question, str) or not question.strip():
                raise UserError(f"{self.path}: record {number:,} has no question: {remedy}")
            if not isinstance(name, str) or not name:
                raise UserError(f"{self.path}: record {number:,} names no database: add a column db, or name one with --db")
            if name not in self.databases:
                self.databases[name] = self._database(name, number)
            asked.append((name, well_formed(question)))
        if not asked:
            raise UserError(f"{self.path} holds no questions: {remedy}")
        return asked

    def _database(self, name: str, number: int) -> Database:
        for path in (Path(name), self.path.parent / name):
            if os.path.isfile(path):
                return Database(path, schema_of_database(path), self.base)
        data = sample.directory_of(self.options["data"])
        for split in ("dev", "test"):
            _, tables, folder = files_of(data, split)
            if os.path.isfile(path := database_file(folder, name)):
                known = read_schemas(tables) if tables.is_file() else {}
                return Database(path, known.get(name) or schema_of_database(path, name), self.base)
        raise UserError(f"{self.path}: record {number:,}: {name} is neither a SQLite file nor a database in {data}: name one")

    def _held(self) -> tuple[str, Counter]:
        """The text of the file of answers so far, and how often it answers each question."""
        if not self.output.exists() or not self.output.stat().st_size:
            return ",".join(FIELDS) + "\n" if self.csv else "", Counter()
        remedy = "name another file with --answers"
        records = read_records(self.output, remedy)
        if not all(set(FIELDS) <= set(record) for record in records):
            raise UserError(f"{self.output} holds other things than answers: {remedy}")
        text = read_text(self.output, remedy)
        if self.csv and next(csv.reader([text.partition("\n")[0]])) != list(FIELDS):
            raise UserError(f"{self.output} has not the columns {','.join(FIELDS)} alone, with commas: {remedy}")
        text += "\n" * (not text.endswith("\n"))  # as some editors leave it out
        return text, Counter((str(record["db"]), str(record["question"])) for record in records)

    def _write(self, records: list[dict]) -> None:
        """Add answers to the file."""
        if self.csv:
            added = io.StringIO(newline="")
            rows = [record | {name: json.dumps(record[name], ensure_ascii=False) for name in FIELDS[-2:]} for record in records]
            # quoting texts: Python before 3.13 leaves a carriage return bare
            csv.DictWriter(added, FIELDS, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
            self.text += added.getvalue()
        else:
            self.text += "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        if self._stamp() != self.stamp:
            raise UserError(f"another program has changed {self.output}: the same command goes on with what is there now")
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.output, self.text)
            self.stamp = self._stamp()
        except OSError as error:
            raise UserError(f"{self.output} cannot be written ({error.strerror}): name another with --answers") from None

    def _stamp(self) -> tuple[int, ...] | None:
        """What changes whenever the file of answers does."""
        found = self.output.stat() if self.output.exists() else None
        return found and (found.st_ino, found.st_size, found.st_mtime_ns)

    def go(self, answer: Answer, stop: Stop) -> None:
        """Ask the questions that are not answered yet. A signal ends the process; answers written so far stay."""
        total, done, where = len(self.asked), len(self.asked) - len(self.waiting), printable(str(self.output))
        print(f"{total:,} questions about {len(self.databases):,} databases, {done:,} of them answered before", flush=True)
        stop.listen(when="")
        with Executor(seconds=self.options["seconds"]) as executor:
            for start in range(0, len(self.waiting), CHUNK):
                some = self.waiting[start : start + CHUNK]
                records = self._answered(some, answer, executor)
                if stop.requested or records is None:  # drop these: a terminal's signal may also have ended SQL workers
                    print(f"stopped: {done:,} of {total:,} are answered in {where}; the same command goes on", flush=True)
                    sys.exit(128 + stop.number)
                self._write(records)
                done += len(some)
                failed = sum(record["error"] is not None for record in records)
                print(f"{done:,} of {total:,} answered, {failed:,} of the last {len(some):,} with an error", flush=True)
        print(f"the answers stand in {where}")

    def _answered(self, some: list[tuple[str, str]], answer: Answer, executor: Executor) -> list[dict] | None:
        databases = {name: self.databases[name] for name, _ in some}
        proposed = answer(
            dict(
                question=[question for _, question in some],
                db_id=[name for name, _ in some],
                values=[databases[name].mentioned(question) for name, question in some],
                sql=[""] * len(some),
            ),
            {name: database.schema for name, database in databases.items()},
        )
        if proposed is None:
            return None
        paths = [databases[name].path for name, _ in some]
        places = vote(executor, list(zip(paths, proposed)))
        chosen = [own[place] for own, place in zip(proposed, places)]
        records = []
        results = executor.run([(path, each["sql"]) for path, each in zip(paths, chosen)], keep=ROWS)
        for (name, question), each, result in zip(some, chosen, results):
            error = explained(result.error, result.message) if result.error else None
            if not each["sql"]:
                error = each.get("message", "the model wrote no SQL")
            first = [[as_json(value) for value in row] for row in result.rows or ()]
            records.append(dict(zip(FIELDS, (question, name, each["sql"], error, result.count, result.columns, first))))
        return records


def as_json(value: object) -> object:
    """A database value as JSON has it: bytes as hexadecimal digits, infinity as text."""
    if isinstance(value, bytes):
        return value.hex()
    return value if not isinstance(value, float) or abs(value) != float("inf") else str(value)


def well_formed(question: str) -> str:
    """Replace lone surrogates, as from arguments that are not UTF-8: no tokenizer takes them. Strip white space."""
    return question.encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()


def typed(schema: Schema) -> Iterator[str]:
    """The non-empty lines of standard input, with a prompt if it is a terminal."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    terminal = sys.stdin.isatty()
    if terminal:
        print(f"{printable(schema.db_id)}: {printable(', '.join(schema.tables))}\nask, or end with Ctrl-D")
    while True:
        print("> " if terminal else "", end="", flush=True)
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            line = ""
        if not line:
            return
        if line.strip():
            yield line


def table(result: Result) -> str:
    """The first rows of a result as aligned columns, and the number of rows."""
    shown = [[cell(value) for value in row] for row in [result.columns, *result.rows]]
    widths = [max(map(len, column)) for column in zip(*shown)]
    lines = [" | ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in shown]
    lines.insert(1, "-+-".join("-" * width for width in widths))
    more = f", the first {ROWS} shown" if result.count > ROWS else ""
    return "\n".join([*lines, f"({result.count:,} row{'' if result.count == 1 else 's'}{more})"])


def cell(value: object) -> str:
    text = "NULL" if value is None else printable(str(value))
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"
