"""The wording of the prompt, how it is shortened, and how SQL is taken out of what a model writes: nowhere else."""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from data.spider import Schema

Form = TypeVar("Form")  # how a prompt is made up: one text, or two
CUE = "\nSQL:"  # where a decoder-only model starts to answer, after a space; an encoder-decoder model needs none


def prompt(
    question: str,
    schema: Schema,
    values: Sequence[dict] = (),
    dropped: frozenset[int] = frozenset(),
    keys: bool = True,
) -> str:
    """The prompt of one question.

    Tables stand in alphabetical order, columns and keys in the order of `tables.json`. `values`, as an example has them,
    stand beside their columns as SQL writes them: `Country ( 'France' )`. `dropped` holds columns (indices into
    `schema.columns`) and whole tables (-1 - index into `schema.tables`) to leave out, with the keys that name them;
    `keys=False` leaves the two lists of keys empty. Where the schema's names are full, columns stand as
    `data.plain.qualified` writes them, with their table's name and, as in most of SQL, between spaces: the same tokens.
    """
    return "\n".join([" ".join(question.split()), *_described(schema, _beside(values), dropped, keys)])


def question_first(*asked) -> tuple[str, str]:
    """Nothing that other questions share, and the prompt: arguments as of `prompt`."""
    return "", prompt(*asked)


def schema_first(
    question: str, schema: Schema, values: Sequence[dict] = (), dropped: frozenset[int] = frozenset(), keys: bool = True
) -> tuple[str, str]:
    """The prompt in two parts: the schema, which all questions of a database share, and the question, arguments as of `prompt`.

    Values stand behind the question, by the full names of their columns, since beside them they would make schemas differ.
    """
    lines = [" ".join(question.split())]
    values = [value for value in values if not {value["column"], -1 - schema.columns[value["column"]][0]} & dropped]
    named = [f"{_full(schema, column)} ( {' , '.join(texts)} )" for column, texts in _beside(values).items()]
    lines += [f"values:{_listed(named, schema)}"] if named else []
    return "\n".join(_described(schema, {}, dropped, keys)) + "\n", "\n".join(lines)


def _beside(values: Sequence[dict]) -> dict[int, list[str]]:
    """The values of each column, as SQL writes them."""
    beside: dict[int, list[str]] = {}
    for value in values:
        beside.setdefault(value["column"], []).append(quoted(value["text"]))
    return beside


def _full(schema: Schema, column: int) -> str:
    table, name = schema.columns[column]
    return f"{schema.tables[table]}.{name}"


def _listed(names: list[str], schema: Schema) -> str:
    """Names in brackets; between spaces where they are to be what SQL writes."""
    return f"[ {' , '.join(names)} ]" if schema.full_names else f"[{','.join(names)}]"


def _described(schema: Schema, beside: dict[int, list[str]], dropped: frozenset[int], keys: bool) -> list[str]:
    """The lines of a schema."""
    lines = [f"db_id:{schema.db_id}"]
    for table in sorted(range(len(schema.tables)), key=lambda index: schema.tables[index].lower()):
        if -1 - table not in dropped:
            columns = [i for i, (t, _) in enumerate(schema.columns) if t == table and i not in dropped]
            names = [_full(schema, i) if schema.full_names else schema.columns[i][1] for i in columns]
            names = [name + (f" ( {' , '.join(beside[i])} )" if i in beside else "") for i, name in zip(columns, names)]
            lines.append(f"Table {schema.tables[table]}, columns = {_listed(['*', *names], schema)}")

    def kept(*columns: int) -> bool:
        return keys and not any(c in dropped or -1 - schema.columns[c][0] in dropped for c in columns)

    pairs = [(child, parent) for child, parent in schema.foreign_keys if kept(child, parent)]
    foreign = [f"{_full(schema, child)} = {_full(schema, parent)}" for child, parent in pairs]
    primary = [_full(schema, column) for column in schema.primary_keys if kept(column)]
    return [*lines, "", f"foreign key:{_listed(foreign, schema)}", f"primary key:{_listed(primary, schema)}"]


def quoted(text: str) -> str:
    """A text as SQL writes it, on one line."""
    return "'" + re.sub(r"[\r\n\t]", " ", text).replace("'", "''") + "'"


def fit(
    question: str,
    schema: Schema,
    values: Sequence[dict],
    budget: int,
    count: Callable[[Form], int],
    form: Callable[..., Form] = prompt,
) -> tuple[Form, bool]:
    """The prompt, as `form` makes it, within `budget` tokens as `count` counts them, and whether it had to be shortened.

    The schema goes in this order, only as much as needed: columns that no word of the question matches and no key names;
    the rest of what the question does not match, tables with their last column; the lists of keys; what the question
    matches by its name or by a value. Within each, later tables and columns first. The question, the headings of the keys
    and the cue always stay, so that a question longer than the budget stays longer.
    """
    whole = form(question, schema, values)
    if count(whole) <= budget:
        return whole, False
    order = _least_needed_first(question, schema, values)

    def without(removals: int) -> Form:
        gone = order[:removals]
        return form(question, schema, values, frozenset(r for r in gone if r != KEYS), KEYS not in gone)

    low, high = 1, len(order)  # the fewest removals that fit: the prompt's length falls with each
    while low < high:
        middle = (low + high) // 2
        if count(without(middle)) <= budget:
            high = middle
        else:
            low = middle + 1
    return without(low), True


KEYS = "keys"  # stands for both lists of keys among the removals


def _least_needed_first(question: str, schema: Schema, values: Sequence[dict]) -> list[int | str]:
    """Everything that may leave the schema, in the order in which it leaves."""
    asked, mentioned = _words(question), {value["column"] for value in values}
    in_key = {*schema.primary_keys, *(column for pair in schema.foreign_keys for column in pair)}
    table_matches = [bool(_words(name) & asked) for name in schema.tables]
    alphabetical = sorted(range(len(schema.tables)), key=lambda index: schema.tables[index].lower())
    plain, linked, matched = [], [], []
    for table in reversed(alphabetical):
        columns = [i for i, (t, _) in enumerate(schema.columns) if t == table]
        hits = {column for column in columns if column in mentioned or _words(schema.columns[column][1]) & asked}
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
    """The SQL as a model learns to write it: one line, no comments, no closing semicolon."""
    return one_line(sql).rstrip("; ")


# every pattern takes time in proportion to the text, whatever a model writes
FENCE = re.compile(r"```(?:[a-zA-Z]+[ \t]*\n)?(.*?)(?:```|\Z)", re.DOTALL)
CTE = r"""(?:"[^"]*"|[^\s(]+)\s*(?:\([^()]*\)\s*)?AS\s*(?:(?:NOT\s+)?MATERIALIZED\s*)?\("""
STATEMENT = rf"(SELECT\b|WITH\s+(?:RECURSIVE\s|{CTE})|VALUES\s*\()"
BLOCK = r"/\*.*?(?:\*/|\Z)"
START = [
    re.compile(pattern, re.IGNORECASE | re.MULTILINE | re.DOTALL)
    for pattern in (rf"{BLOCK}|^[^\S\n]*{STATEMENT}", rf"{BLOCK}|--[^\n]*|\b{STATEMENT}", rf"\b{STATEMENT}")
]
QUOTED = r"""'[^']*'|"[^"]*"|`[^`]*`"""  # a doubled quote within reads as two quoted texts side by side
PIECE = re.compile(rf"(```|;|\n\s*\n)|({QUOTED})|--[^\n]*|{BLOCK}", re.DOTALL)
COMMENT = re.compile(rf"({QUOTED})|--[^\n]*|{BLOCK}", re.DOTALL)


def clean_sql(text: str) -> str:
    """One line of SQL out of what a model wrote, or "" where there is none.

    Taken off, in this order: all but the first Markdown fence that holds a statement; text before the first statement
    (SELECT, WITH or VALUES at the start of a line, else anywhere outside comments, else anywhere); all after the first
    semicolon, blank line or fence outside quotes; comments; runs of white space outside quotes. Line breaks and tabs
    within quotes become spaces.
    """
    for candidate in (*(fence[1] for fence in FENCE.finditer(text)), text):
        starts = (match for pattern in START for match in pattern.finditer(candidate) if match[1])
        if start := next(starts, None):
            sql = candidate[start.start(1) :]
            end = next((piece.start() for piece in PIECE.finditer(sql) if piece[1]), len(sql))
            return one_line(sql[:end])
    return ""


def one_line(sql: str) -> str:
    """SQL without comments, with runs of white space as one space outside quotes; within, line breaks and tabs are spaces."""
    pieces = re.split(f"({QUOTED})", COMMENT.sub(lambda piece: piece[1] or " ", sql))
    pieces[::2] = [re.sub(r"\s+", " ", piece) for piece in pieces[::2]]
    pieces[1::2] = [re.sub(r"[\r\n\t]", " ", piece) for piece in pieces[1::2]]
    return "".join(pieces).strip()
