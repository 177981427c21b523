"""The wording of the prompt, how it is shortened, and how SQL is taken out of what a model writes: nowhere else."""

import re
from collections.abc import Callable

from data.spider import Schema

CUE = "\nSQL: "  # where a decoder-only model starts to answer; an encoder-decoder model needs none


def prompt(question: str, schema: Schema, dropped: frozenset[int] = frozenset(), keys: bool = True) -> str:
    """The prompt of one question.

    Tables stand in alphabetical order, columns and keys in the order of `tables.json`. `dropped` holds columns (indices
    into `schema.columns`) and whole tables (-1 - index into `schema.tables`) to leave out, with the keys that name them;
    `keys=False` leaves the two lists of keys empty.
    """
    lines = [" ".join(question.split()), f"db_id:{schema.db_id}"]
    for table in sorted(range(len(schema.tables)), key=lambda index: schema.tables[index].lower()):
        if -1 - table not in dropped:
            names = [name for i, (t, name) in enumerate(schema.columns) if t == table and i not in dropped]
            lines.append(f"Table {schema.tables[table]}, columns = [{','.join(['*', *names])}]")

    def kept(*columns: int) -> bool:
        return keys and not any(c in dropped or -1 - schema.columns[c][0] in dropped for c in columns)

    def full(column: int) -> str:
        table, name = schema.columns[column]
        return f"{schema.tables[table]}.{name}"

    foreign = [f"{full(child)} = {full(parent)}" for child, parent in schema.foreign_keys if kept(child, parent)]
    primary = [full(column) for column in schema.primary_keys if kept(column)]
    lines += ["", f"foreign key:[{','.join(foreign)}]", f"primary key:[{','.join(primary)}]"]
    return "\n".join(lines)


def fit(question: str, schema: Schema, budget: int, count: Callable[[str], int]) -> tuple[str, bool]:
    """The prompt within `budget` tokens as `count` counts them, and whether it had to be shortened.

    The schema goes in this order, only as much as needed: columns that no word of the question matches and no key names;
    the rest of what the question does not match, tables with their last column; the lists of keys; what the question
    matches. Within each, later tables and columns first. The question, the headings of the keys and the cue always stay,
    so that a question longer than the budget stays longer.
    """
    text = prompt(question, schema)
    if count(text) <= budget:
        return text, False
    order = _least_needed_first(question, schema)
    low, high = 1, len(order)  # the fewest removals that fit: the prompt's length falls with each
    while low < high:
        middle = (low + high) // 2
        if count(_without(question, schema, order[:middle])) <= budget:
            high = middle
        else:
            low = middle + 1
    return _without(question, schema, order[:low]), True


KEYS = "keys"  # stands for both lists of keys among the removals


def _without(question: str, schema: Schema, removals: list[int | str]) -> str:
    return prompt(question, schema, frozenset(r for r in removals if r != KEYS), KEYS not in removals)


def _least_needed_first(question: str, schema: Schema) -> list[int | str]:
    """Everything that may leave the schema, in the order in which it leaves."""
    asked = _words(question)
    in_key = {*schema.primary_keys, *(column for pair in schema.foreign_keys for column in pair)}
    table_matches = [bool(_words(name) & asked) for name in schema.tables]
    alphabetical = sorted(range(len(schema.tables)), key=lambda index: schema.tables[index].lower())
    plain, linked, matched = [], [], []
    for table in reversed(alphabetical):
        columns = [i for i, (t, _) in enumerate(schema.columns) if t == table]
        hits = {column for column in columns if _words(schema.columns[column][1]) & asked}
        plain += [column for column in reversed(columns) if column not in hits and column not in in_key]
        linked += [column for column in reversed(columns) if column not in hits and column in in_key]
        needed = bool(hits) or table_matches[table]
        (matched if needed else linked).extend([*sorted(hits, reverse=True), -1 - table])
    return [*plain, *linked, KEYS, *matched]


def _words(name: str) -> set[str]:
    """The words of a question or an identifier, lower case, without a plural's s."""
    split = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)
    return {word.lower().removesuffix("s") for word in split}


def target(sql: str) -> str:
    """The SQL as a model learns to write it: one line, single spaces outside quotes, no closing semicolon."""
    return _one_line(sql).rstrip("; ")


FENCE = re.compile(r"```(?:[a-zA-Z]+[ \t]*\n)?(.*?)(?:```|$)", re.DOTALL)
STATEMENT = r"(?:SELECT\b|WITH\s+(?:RECURSIVE\s|\S+\s*(?:\([^)]*\)\s*)?AS\s*\()|VALUES\s*\()"
START = (re.compile(rf"^\s*{STATEMENT}", re.IGNORECASE | re.MULTILINE), re.compile(rf"\b{STATEMENT}", re.IGNORECASE))
QUOTED = r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`"""  # a doubled quote is part of the text
PIECE = re.compile(rf"({QUOTED})|(--[^\n]*|/\*.*?(?:\*/|$))|(;|\n\s*\n)", re.DOTALL)


def clean_sql(text: str) -> str:
    """One line of SQL out of what a model wrote, or "" where there is none.

    Taken off, in this order: a Markdown fence around the SQL; text before the first statement (SELECT, WITH or VALUES at
    the start of a line, else anywhere); comments; all after the first semicolon or blank line outside quotes; runs of
    white space outside quotes. Line breaks and tabs within quotes become spaces.
    """
    fence = FENCE.search(text)
    if fence:
        text = fence.group(1)
    start = START[0].search(text) or START[1].search(text)
    if not start:
        return ""
    text = text[start.start() :].strip()
    kept, position = [], 0
    for piece in PIECE.finditer(text):
        quoted, comment, end = piece.groups()
        kept.append(text[position : piece.start()])
        position = len(text) if end else piece.end()
        if end:
            break
        kept.append(" " if comment else quoted)
    return _one_line("".join([*kept, text[position:]]))


def _one_line(sql: str) -> str:
    """Runs of white space as one space outside quotes; within them only line breaks and tabs become spaces."""
    pieces = re.split(rf"({QUOTED})", sql)
    pieces[::2] = [re.sub(r"\s+", " ", piece) for piece in pieces[::2]]
    pieces[1::2] = [re.sub(r"[\r\n\t]", " ", piece) for piece in pieces[1::2]]
    return "".join(pieces).strip()
