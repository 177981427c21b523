"""The only place that words prompts, shortens them, and extracts SQL from what a model writes."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import accumulate
from typing import TypeVar

from data.benchmark.schema import Schema

Form = TypeVar("Form")  # a prompt: one text, or two (schema and question)
LINKED = 8  # columns listed after a question: further ones only share a common word like `name`
CUE = "\nSQL:"  # after it and a space, a decoder-only model starts its answer; an encoder-decoder model needs none
# words of SQLite that need quotes as the name of a table or column (https://www.sqlite.org/lang_keywords.html, those that are
# not taken for a name in an expression)
RESERVED = frozenset(
    "add all alter and as autoincrement between case cast check collate commit constraint create current_date current_time "
    "current_timestamp default deferrable delete distinct drop else escape except exists foreign from group having in index "
    "insert intersect into is isnull join limit not nothing notnull null on or order primary raise references returning select "
    "set table then to transaction union unique update using values when where with".split()
)


def name(text: str) -> str:
    """A table's or column's name as prompts and answers write it: in double quotes where SQL needs them."""
    bare = re.fullmatch(r"[^\W\d]\w*", _without_marks(text)) and text.lower() not in RESERVED
    return text if bare else '"' + text.replace('"', '""') + '"'


def _without_marks(text: str) -> str:
    """Text without combining characters (accents, vowel signs), which regular expressions take for no part of a word."""
    return text if text.isascii() else "".join(each for each in text if unicodedata.category(each)[0] != "M")


def prompt(
    question: str,
    schema: Schema,
    values: Sequence[dict] = (),
    dropped: frozenset[int] = frozenset(),
    keys: bool = True,
) -> str:
    """The prompt of one question.

    Tables come in alphabetical order, columns and keys in the order of `tables.json`, names as `name` writes them, without
    line breaks. `values`, as in `Example.values`, follow their columns as in SQL: `Country ( 'France' )`. `dropped` holds
    columns (indices into `schema.columns`) and whole tables (-1 - index into `schema.tables`) to leave out, with the keys that
    name them; `keys=False` leaves the two lists of keys empty. Where `schema.full_names`, columns are written as by
    `spelling.qualified`, with their table's name and, as mostly in SQL, between spaces, so that they are the same tokens there.
    """
    return "\n".join([" ".join(question.split()), *_described(schema, _beside(values), dropped, keys)])


def question_first(*asked) -> tuple[str, str]:
    """The prompt in two parts, of which the first, shared by questions, is empty; arguments as for `prompt`."""
    return "", prompt(*asked)


def schema_first(
    question: str, schema: Schema, values: Sequence[dict] = (), dropped: frozenset[int] = frozenset(), keys: bool = True
) -> tuple[str, str]:
    """The prompt in two parts: the schema, which all questions of a database share, and the question; arguments as of `prompt`.

    Values follow the question, with the full names of their columns, as within the schema they would make it differ. After
    them come up to LINKED columns that share words with the question, since the model reads the schema before it.
    """
    lines = [" ".join(question.split())]
    values = [value for value in values if not {value["column"], -1 - schema.columns[value["column"]][0]} & dropped]
    named = [f"{_full(schema, column)} ( {' , '.join(texts)} )" for column, texts in _beside(values).items()]
    lines += [f"values:{_listed(named, schema)}"] if named else []
    asked = _words(question, parts=True)
    kept = sorted(i for own in _by_table(schema, dropped) for i in own if -1 - schema.columns[i][0] not in dropped)
    shares = {i: len(words & asked) / len(words) for i in kept if (words := _words(schema.columns[i][1]))}
    linked = [i for i, share in shares.items() if share]
    best = sorted(linked, key=shares.__getitem__, reverse=True)[:LINKED]
    lines += [f"columns:{_listed([_full(schema, i) for i in best], schema)}"] if best else []
    return "\n".join(_described(schema, {}, dropped, keys)) + "\n", "\n".join(lines)


def _beside(values: Sequence[dict]) -> dict[int, list[str]]:
    """Column -> its values, as SQL writes them."""
    beside: dict[int, list[str]] = {}
    for value in values:
        beside.setdefault(value["column"], []).append(literal(value["text"]))
    return beside


@lru_cache(maxsize=1 << 16)
def _named(text: str) -> str:
    return _on_one_line(name(text))


def _full(schema: Schema, column: int) -> str:
    table, text = schema.columns[column]
    return f"{_named(schema.tables[table])}.{_named(text)}"


def _listed(names: list[str], schema: Schema) -> str:
    """Names in brackets; between spaces where they are to be the same tokens as in SQL."""
    return f"[ {' , '.join(names)} ]" if schema.full_names else f"[{','.join(names)}]"


def _described(schema: Schema, beside: dict[int, list[str]], dropped: frozenset[int], keys: bool) -> list[str]:
    """The lines of a schema."""
    lines, own = [f"db_id:{schema.db_id}"], _by_table(schema, dropped)
    for table in _alphabetical(schema):
        if -1 - table not in dropped:
            names = [_full(schema, i) if schema.full_names else _named(schema.columns[i][1]) for i in own[table]]
            names = [name + (f" ( {' , '.join(beside[i])} )" if i in beside else "") for i, name in zip(own[table], names)]
            lines.append(f"Table {_named(schema.tables[table])}, columns = {_listed(['*', *names], schema)}")

    def kept(*columns: int) -> bool:
        return keys and not any(c in dropped or -1 - schema.columns[c][0] in dropped for c in columns)

    pairs = [(child, parent) for child, parent in schema.foreign_keys if kept(child, parent)]
    foreign = [f"{_full(schema, child)} = {_full(schema, parent)}" for child, parent in pairs]
    primary = [_full(schema, column) for column in schema.primary_keys if kept(column)]
    return [*lines, "", f"foreign key:{_listed(foreign, schema)}", f"primary key:{_listed(primary, schema)}"]


def _by_table(schema: Schema, dropped: frozenset[int] = frozenset()) -> list[list[int]]:
    """The columns of each table, without dropped ones."""
    own: list[list[int]] = [[] for _ in schema.tables]
    for column, (table, _) in enumerate(schema.columns):
        if table >= 0 and column not in dropped:
            own[table].append(column)
    return own


def _alphabetical(schema: Schema) -> list[int]:
    return sorted(range(len(schema.tables)), key=lambda table: schema.tables[table].lower())


def literal(text: str) -> str:
    """A text as SQL writes it, on one line."""
    return "'" + _on_one_line(text).replace("'", "''") + "'"


def _on_one_line(text: str) -> str:
    """Text with spaces instead of line breaks and tabs."""
    return re.sub(r"[\r\n\t]", " ", text)


def fit(
    question: str,
    schema: Schema,
    values: Sequence[dict],
    budget: int,
    count: Callable[[Form], int],
    form: Callable[..., Form] = prompt,
) -> tuple[Form, bool]:
    """The prompt, as `form` makes it, within `budget` tokens as `count` counts them, and whether it had to be shortened.

    Parts of the schema are removed in this order, only as many as needed: columns that no word of the question matches and
    no key names; the rest of what the question does not match, tables with their last column; the lists of keys; what the
    question matches by name or by a value. Within each, later tables and columns go first. The question, the headings of the
    keys and the cue always stay, so that a prompt with a very long question may exceed the budget.
    """
    order = _least_needed_first(question, schema, values)

    def without(removals: int) -> Form:
        gone = frozenset(order[:removals])
        return form(question, schema, values, gone - {KEYS}, KEYS not in gone)

    @cache
    def tokens(removals: int) -> int:
        return count(without(removals))

    # counting is slow, so lengths of names say where to begin, and texts that are much too long are never counted
    sizes = [0 if r == KEYS else len(schema.tables[-1 - r]) if r < 0 else len(schema.columns[r][1]) for r in reversed(order)]
    left = [*accumulate(sizes, initial=0)][::-1]  # characters of names that are left after so many removals

    def removals_to(characters: float) -> int:
        return next(removals for removals, rest in enumerate(left) if rest <= characters)

    guess = removals_to(3 * budget)
    if guess or tokens(0) > budget:
        guess = removals_to(left[guess] * budget / max(1, tokens(guess)))
    removals = _fewest(lambda removals: tokens(removals) <= budget, guess, len(order))
    return without(removals), removals > 0


def _fewest(enough: Callable[[int], bool], guess: int, most: int) -> int:
    """The smallest number that is `enough`, searched from `guess` on; all larger ones have to be, `most` is taken to be."""
    low, high, place, step = -1, most, min(guess, most - 1), max(1, (most - guess) // 32)
    while high - low > 1:
        low, high = (low, place) if enough(place) else (place, high)
        if low < 0:
            place = max(0, high - step)
        elif high == most:
            place = min(most - 1, low + step)
        else:
            place = (low + high) // 2
        step *= 2
    return high


KEYS = "keys"  # stands for both lists of keys among the removals


def _least_needed_first(question: str, schema: Schema, values: Sequence[dict]) -> list[int | str]:
    """Everything that may be removed from the schema, in that order."""
    asked, mentioned = _words(question, parts=True), {value["column"] for value in values}
    in_key = {*schema.primary_keys, *(column for pair in schema.foreign_keys for column in pair)}
    own = _by_table(schema)
    plain, linked, matched = [], [], []
    for table in reversed(_alphabetical(schema)):
        hits = {i for i in own[table] if i in mentioned or not asked.isdisjoint(_words(schema.columns[i][1]))}
        for column in reversed(own[table]):
            if column not in hits:
                (linked if column in in_key else plain).append(column)
        needed = bool(hits) or not asked.isdisjoint(_words(schema.tables[table]))
        (matched if needed else linked).extend([*sorted(hits, reverse=True), -1 - table])
    return [*plain, *linked, KEYS, *matched]


# matches `_shape`s: A is a capital, a another letter, 0 a digit, and these are characters of scripts without spaces
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|漢+|ก+")
UNSPACED = {
    "漢": "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff",
    "ก": "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff",
}
GRAM = {"漢": 2, "ก": 4}  # characters of a typical word there
STEM = 5  # leading letters that the inflections of a non-ASCII word share


@lru_cache(maxsize=1 << 16)
def _words(text: str, parts: bool = False) -> frozenset[str]:
    """The words of a question or an identifier in the form in which they are compared, for any script.

    They are in lower case, without accents and without a plural's s; non-ASCII words are cut to their first letters, and text
    without spaces gives runs of a few characters, with `parts` also shorter ones.
    """
    shape = text
    if not text.isascii():
        text = unicodedata.normalize("NFC", _without_marks(unicodedata.normalize("NFKD", text)))
        shape = "".join(map(_shape, text))
    found = set()
    for match in WORD.finditer(shape):
        word = text[match.start() : match.end()]
        if (longest := GRAM.get(match[0][0])) is None:
            word = word.casefold()
            found.add(word.removesuffix("s") if word.isascii() else word[:STEM])
            continue
        for size in range(1 if parts else min(longest, len(word)), longest + 1):
            found.update(word[i : i + size] for i in range(len(word) - size + 1))
    return frozenset(found)


def _shape(letter: str) -> str:
    if letter.isascii():
        return letter
    unspaced = next((kind for kind, letters in UNSPACED.items() if re.match(f"[{letters}]", letter)), "")
    return unspaced or ("A" if letter.isupper() else "a" if letter.isalpha() else "0" if letter.isdecimal() else " ")


def target(sql: str) -> str:
    """The SQL as a model learns to write it: one line, without comments and outer semicolons."""
    return one_line(sql).strip("; ")


def gold_to_run(sql: str) -> str:
    """Gold SQL without comments and outer semicolons: a second ; would begin another statement."""
    return _without_comments(sql).strip("; \t\r\n")


# every pattern takes linear time, whatever a model writes
FENCE = re.compile(r"```(?:[a-zA-Z]+[ \t]*\n)?(.*?)(?:```|\Z)", re.DOTALL)
CTE = r"""(?:"[^"]*"|`[^`]{0,200}`|\[[^\]]{0,200}\]|[^\s(]+)\s*(?:\([^()]*\)\s*)?AS\s*(?:(?:NOT\s+)?MATERIALIZED\s*)?\("""
STATEMENT = rf"(SELECT\b|WITH\s+(?:RECURSIVE\s|{CTE})|VALUES\s*\()"
BLOCK = r"/\*.*?(?:\*/|\Z)"
START = [
    re.compile(pattern, re.IGNORECASE | re.MULTILINE | re.DOTALL)
    for pattern in (rf"{BLOCK}|^[^\S\n]*{STATEMENT}", rf"{BLOCK}|--[^\n]*|\b{STATEMENT}", rf"\b{STATEMENT}")
]
# a doubled quote counts as two adjacent quoted texts; an unclosed bracket extends to the end, as otherwise a text full of
# them would take quadratic time
QUOTED = r"""'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*(?:\]|\Z)"""
PIECE = re.compile(rf"(```|;|\n\s*\n)|({QUOTED})|--[^\n]*|{BLOCK}", re.DOTALL)
COMMENT = re.compile(rf"({QUOTED})|--[^\n]*|{BLOCK}", re.DOTALL)


def clean_sql(text: str) -> str:
    """One line of SQL from what a model wrote, or "" if there is none.

    Removed are, in this order: all but the first Markdown fence that holds a statement; text before the first statement
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
    """SQL without comments, runs of white space as one space; within quotes only line breaks and tabs become spaces."""
    pieces = re.split(f"({QUOTED})", _without_comments(sql))
    pieces[::2] = [re.sub(r"\s+", " ", piece) for piece in pieces[::2]]
    pieces[1::2] = [re.sub(r"[\r\n\t]", " ", piece) for piece in pieces[1::2]]
    return "".join(pieces).strip()


def _without_comments(sql: str) -> str:
    return COMMENT.sub(lambda piece: piece[1] or " ", sql)
