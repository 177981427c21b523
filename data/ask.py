"""Questions about any SQLite file: the SQL that a model writes, and the rows that it returns."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from data.candidates import choose
from data.errors import UserError, printable
from data.execute import Executor, explained
from data.spider import Schema, schema_of_database
from data.values import Values

ROWS = 20  # of a result, that are printed
WIDTH = 40  # characters of a value


def bare_ask(argv: list[str]) -> list[str]:
    """The arguments without an `--ask` that no question follows: it then reads them from the terminal."""
    following = [*argv[1:], "--"]
    return [word for word, after in zip(argv, following) if word != "--ask" or not after.startswith("--")]


class Conversation:
    """Questions to a database, with cells that they mention (`values`) and full names where the model was trained so.

    Raises UserError for a database that cannot be read.
    """

    def __init__(self, database: str, values: bool = False, full_names: bool = False):
        self.database, self.schema = database, schema_of_database(Path(database))
        self.values = Values(database, self.schema) if values else None
        self.asked = replace(self.schema, full_names=full_names)

    def go(self, question: str | None, answer: Callable[[dict, dict[str, Schema]], list[dict]]) -> None:
        """Print SQL and result for `question`, or for each line typed until end of input where it is None.

        `answer(rows, schemas)` proposes candidates (`data.candidates`) for one row, in the columns that `encode` takes. They
        are run under the scorer's limits, read-only. What it raises for a question that is typed is said, and the next is read.
        """
        with Executor(workers=1) as executor:
            for asked in [question] if question is not None else typed(self.schema):
                try:
                    proposed = answer(self.row(asked.strip()), {self.schema.db_id: self.asked})
                except UserError as error:
                    if question is not None:
                        raise
                    print(f"error: {printable(str(error))}")
                    continue
                (place,) = choose(executor, [(self.database, proposed)])
                sql = proposed[place]["sql"]
                print(printable(sql) or "the model wrote no SQL", flush=True)
                if sql:
                    (result,) = executor.run([(self.database, sql)])
                    failed = result.rows is None
                    print(explained(result.error, result.message) if failed else table(result.columns, result.rows))

    def row(self, question: str) -> dict[str, list]:
        """A question as the only row of a data set's columns."""
        mentioned = self.values.mentioned(question) if self.values else []
        return dict(question=[question], db_id=[self.schema.db_id], values=[mentioned], sql=[""])


def typed(schema: Schema) -> Iterator[str]:
    """The lines of standard input, with a prompt where it is a terminal."""
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


def table(columns: list[str], rows: list[tuple]) -> str:
    """The first rows of a result in columns, and how many there are."""
    shown = [[cell(value) for value in row] for row in [columns, *rows[:ROWS]]]
    widths = [max(map(len, column)) for column in zip(*shown)]
    lines = [" | ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in shown]
    lines.insert(1, "-+-".join("-" * width for width in widths))
    more = f", the first {ROWS} shown" if len(rows) > ROWS else ""
    return "\n".join([*lines, f"({len(rows):,} row{'' if len(rows) == 1 else 's'}{more})"])


def cell(value: object) -> str:
    text = "NULL" if value is None else printable(str(value))
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"
