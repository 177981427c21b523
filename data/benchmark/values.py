"""Find the cells of a database that a question mentions, since its SQL has to spell them as the database does."""

import re
import sqlite3
import unicodedata
from collections import defaultdict
from pathlib import Path

from data.benchmark.prompt import UNSPACED
from data.benchmark.schema import Schema
from data.common.errors import UserError
from data.sqlite.execute import quoted, read_database, readable

VALUES_PER_COLUMN = 2  # at most
MAX_CHARACTERS = 64  # of a cell; longer ones are prose
SPAN = 8  # words of a cell, at most
PER_WORD = 4  # characters that count as one word in scripts without spaces
VIEW_STEPS = 20_000_000  # instructions of SQLite, some seconds, for reading a column of a view: views may never end
CELLS = 200_000  # different ones that are read of a column; columns with more hold keys and prose rather than names
# common words of questions: a cell that is one of them does not count as mentioned
COMMON = frozenset(
    "a all an and any are as at be both but by can did do does each find for from give had has have hi how i id if in is it "
    "its list many me more most my name no not number of on one or other our out per show so some than that the their them "
    "there these they this those to type up us was we were what when where which who whose will with yes you your".split()
) | frozenset(
    "的了是在有和与及或不也都就多少几个些哪什么谁何每各所以为于从到对中上下大小人年月日时分元条名位のはがをにでともへや"
)


class Values:
    """An index of one database's text cells, built once for many questions.

    Raises UserError where the file cannot be read as SQLite.
    """

    def __init__(self, database: str | Path, schema: Schema) -> None:
        self._found: dict[str, list[tuple[int, str]]] = defaultdict(list)  # words, joined by spaces -> columns and cells
        sizes = set()
        path = Path(database)
        named = {words(name) for name in (*schema.tables, *(name for _, name in schema.columns))}
        try:
            found = read_database(readable(path), lambda connection: all_cells(connection, schema))
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"{path} cannot be read ({error}): close whatever writes to it, or copy it again") from None
        for column, cell in found:
            key = words(cell)
            # where a cell is also the name of a table or column, questions more likely mean that
            if key and key not in named and len(key) + _unspaced(key) * (1 / PER_WORD - 1) <= SPAN:
                self._found[" ".join(key)].append((column, cell))
                sizes.add(len(key))
        self._sizes = sorted(sizes, reverse=True)

    def mentioned(self, question: str) -> list[dict]:
        """The cells that the question mentions -> dicts of `column` (index in the schema) and `text`, ordered by column.

        A cell is mentioned where the question holds its words in their order, regardless of case, punctuation and a plural's
        s; in scripts without spaces each character is a word. Within a column, cells with more words come first, then those
        mentioned earlier, then those in the question's own spelling, at most VALUES_PER_COLUMN; a cell within a longer one of
        its column is left out.
        """
        spelled, asked = pieces(question), words(question)
        taken: dict[int, list[tuple[range, str]]] = defaultdict(list)
        for size in self._sizes:
            for start in range(len(asked) - size + 1):
                key, span = " ".join(asked[start : start + size]), range(start, start + size)
                if key not in self._found:
                    continue
                own = tuple(spelled[start : start + size])
                if not any(map(telling, own)) and size in (1, _unspaced(own)):
                    continue
                said = " ".join(own)
                for column, cell in sorted(self._found[key], key=lambda pair: (" ".join(pieces(pair[1])) != said, pair)):
                    others = taken[column]
                    inside = any(set(span) < set(other) for other, _ in others)
                    if len(others) < VALUES_PER_COLUMN and not inside and cell not in (text for _, text in others):
                        others.append((span, cell))
        return [dict(column=column, text=text) for column in sorted(taken) for _, text in taken[column]]


WORD = re.compile(r"\w+")
CHARACTER = f"[{''.join(UNSPACED.values())}]"
PIECE = re.compile(rf"{CHARACTER}|(?:(?!{CHARACTER})\w)+")


def pieces(text: str) -> list[str]:
    """The words of a text in its own spelling; single characters in scripts without spaces."""
    return WORD.findall(text) if text.isascii() else PIECE.findall(unicodedata.normalize("NFKC", text))


def words(text: str) -> tuple[str, ...]:
    """The words of a text for comparison: lower case, without a plural's s."""
    folded = map(str.casefold, pieces(text))
    return tuple(word[:-1] if len(word) > 3 and word[-1] == "s" != word[-2] else word for word in folded)


def _unspaced(key: tuple[str, ...]) -> int:
    """How many of the words are single characters of a script without spaces."""
    return sum(len(word) == 1 and not word.isascii() and re.match(CHARACTER, word) is not None for word in key)


def telling(word: str) -> bool:
    """Whether a single word of a question may mention a cell: not a common word, nor a single letter unless a capital."""
    lone = len(word) == 1 and not word.isdigit() and not word.isupper() and not _unspaced((word,))
    return not lone and word.casefold() not in COMMON


def all_cells(connection: sqlite3.Connection, schema: Schema) -> list[tuple[int, str]]:
    """The cells of all columns of a schema, as (index of the column, cell)."""
    views = {name.lower() for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'view'")}
    found = []
    for column, (table, name) in enumerate(schema.columns):
        if table >= 0:
            limited = schema.tables[table].lower() in views
            connection.set_progress_handler((lambda: True) if limited else None, VIEW_STEPS)
            found += [(column, cell) for cell in cells(connection, schema.tables[table], name)]
    return found


def cells(connection: sqlite3.Connection, table: str, column: str) -> list[str]:
    """The different short texts of a column, sorted; none if the column does not exist or cannot be read to its end."""
    field = f"{quoted(table)}.{quoted(column)}"  # without its table, SQLite would read an unknown quoted name as a text
    condition = f"typeof({field}) = 'text' AND length({field}) <= ?"
    query = f"SELECT DISTINCT {field} COLLATE BINARY FROM {quoted(table)} WHERE {condition} ORDER BY 1 LIMIT ?"
    try:
        return [cell for (cell,) in connection.execute(query, (MAX_CHARACTERS, CELLS))]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_INTERRUPT):
            return []
        raise
