"""The wording of the prompt, how it is shortened, and how SQL is taken out of what a model writes: nowhere else."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import accumulate
from typing import TypeVar

from data.benchmark.schema import Schema

Form = TypeVar("Form")  # how a prompt is made up: one text, or two
LINKED = 8  # columns behind a question: more would be those that have a common word like `name`
CUE = "\nSQL:"  # where a decoder-only model starts to answer, after a space; an encoder-decoder model needs none
# words of SQLite that name no table or column without quotes (https://www.sqlite.org/lang_keywords.html, those that it does
# not take for a name where an expression may stand)
RESERVED = frozenset(
    "add all alter and as autoincrement between case cast check collate commit constraint create current_date current_time "
    "current_timestamp default deferrable delete distinct drop else escape except exists foreign from group having in index "
    "insert intersect into is isnull join limit not nothing notnull null on or order primary raise references returning select "
    "set table then to transaction union unique update using values when where".split()
)


def name(text: str) -> str:
    """The name of a table or column as SQL writes it, in prompts and answers alike: in double quotes where it needs them."""
    bare = re.fullmatch(r"[^\W\d]\w*", _without_marks(text)) and text.lower() not in RESERVED
    return text if bare else '"' + text.replace('"', '""') + '"'


def _without_marks(text: str) -> str:
    """Text without accents and vowel signs that are characters of their own, which no pattern takes for part of a word."""
    return text if text.isascii() else "".join(each for each in text if unicodedata.category(each)[0] != "M")


def prompt(
    question: str,
    schema: Schema,
    values: Sequence[dict] = (),
    dropped: frozenset[int] = frozenset(),
    keys: bool = True,
) -> str:
    """The prompt of one question.

    Tables stand in alphabetical order, columns and keys in the order of `tables.json`, names as SQL writes them (`name`), on
    one line. `values`, as an example has them, stand beside their columns as SQL writes them: `Country ( 'France' )`.
    `dropped` holds columns (indices into `schema.columns`) and whole tables (-1 - index into `schema.tables`) to leave out,
    with the keys that name them; `keys=False` leaves the two lists of keys empty. Where the schema's names are full, columns
    stand as `spelling.qualified` writes them, with their table's name and, as in most of SQL, between spaces: the same
    tokens.
    """
    return "\n".join([" ".join(question.split()), *_described(schema, _beside(values), dropped, keys)])


def question_first(*asked) -> tuple[str, str]:
    """Nothing that other questions share, and the prompt: arguments as of `prompt`."""
    return "", prompt(*asked)


def schema_first(
    question: str, schema: Schema, values: Sequence[dict] = (), dropped: frozenset[int] = frozenset(), keys: bool = True
) -> tuple[str, str]:
    """The prompt in two parts: the schema, which all questions of a database share, and the question, arguments as of `prompt`.

    Behind the question stand values, by the full names of their columns, since beside them they would make schemas differ,
    and up to LINKED columns that share words with the question: a schema that is read first does not know what will be asked.
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
    """The values of each column, as SQL writes them."""
    beside: dict[int, list[str]] = {}
    for value in values:
        beside.setdefault(value["column"], []).append(quoted(value["text"]))
    return beside


@lru_cache(maxsize=1 << 16)
def _named(text: str) -> str:
    return _on_one_line(name(text))


def _full(schema: Schema, column: int) -> str:
    table, text = schema.columns[column]
    return f"{_named(schema.tables[table])}.{_named(text)}"


def _listed(names: list[str], schema: Schema) -> str:
    """Names in brackets; between spaces where they are to be what SQL writes."""
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
    """The columns of each table, but for those that are dropped."""
    own: list[list[int]] = [[] for _ in schema.tables]
    for column, (table, _) in enumerate(schema.columns):
        if table >= 0 and column not in dropped:
            own[table].append(column)
    return own


def _alphabetical(schema: Schema) -> list[int]:
    return sorted(range(len(schema.tables)), key=lambda table: schema.tables[table].lower())


def quoted(text: str) -> str:
    """A text as SQL writes it, on one line."""
    return "'" + _on_one_line(text).replace("'", "''") + "'"


def _on_one_line(text: str) -> str:
    """Text without line breaks and tabs, which are no part of a line of SQL."""
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

    The schema goes in this order, only as much as needed: columns that no word of the question matches and no key names;
    the rest of what the question does not match, tables with their last column; the lists of keys; what the question
    matches by its name or by a value. Within each, later tables and columns first. The question, the headings of the keys
    and the cue always stay, so that a question longer than the budget stays longer.
    """
    order = _least_needed_first(question, schema, values)

    def without(removals: int) -> Form:
        gone = frozenset(order[:removals])
        return form(question, schema, values, gone - {KEYS}, KEYS not in gone)

    @cache
    def tokens(removals: int) -> int:
        return count(without(removals))

    # counting is slow and lengths of names are at hand: they say where to begin, and texts much too long are never counted
    sizes = [0 if r == KEYS else len(schema.tables[-1 - r]) if r < 0 else len(schema.columns[r][1]) for r in reversed(order)]
    left = [*accumulate(sizes, initial=0)][::-1]  # characters of names, by removals

    def removals_to(characters: float) -> int:
        return next(removals for removals, rest in enumerate(left) if rest <= characters)

    guess = removals_to(3 * budget)
    if guess or tokens(0) > budget:
        guess = removals_to(left[guess] * budget / max(1, tokens(guess)))
    removals = _fewest(lambda removals: tokens(removals) <= budget, guess, len(order))
    return without(removals), removals > 0


def _fewest(enough: Callable[[int], bool], guess: int, most: int) -> int:
    """The smallest number that is `enough`, as every larger one is, and `most` without asking; searched from `guess` on."""
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
    """Everything that may leave the schema, in the order in which it leaves."""
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


# of a text's shape: A stands for a capital, a for another letter, 0 for a digit, and these for scripts without spaces
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|漢+|ก+")
UNSPACED = {
    "漢": "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff",
    "ก": "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff",
}
GRAM = {"漢": 2, "ก": 4}  # characters that make about a word there
STEM = 5  # letters of a word outside ASCII that its inflections share


@lru_cache(maxsize=1 << 16)
def _words(text: str, parts: bool = False) -> frozenset[str]:
    """The words of a question or an identifier as they are compared, in every script.

    Lower case, without accents and a plural's s; of words outside ASCII their beginning, and where a script has no spaces
    runs of a few characters, with `parts` shorter ones, too.
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
    """The SQL as a model learns to write it: one line, no comments, no semicolons around it."""
    return one_line(sql).strip("; ")


# every pattern takes time in proportion to the text, whatever a model writes
FENCE = re.compile(r"```(?:[a-zA-Z]+[ \t]*\n)?(.*?)(?:```|\Z)", re.DOTALL)
CTE = r"""(?:"[^"]*"|`[^`]{0,200}`|\[[^\]]{0,200}\]|[^\s(]+)\s*(?:\([^()]*\)\s*)?AS\s*(?:(?:NOT\s+)?MATERIALIZED\s*)?\("""
STATEMENT = rf"(SELECT\b|WITH\s+(?:RECURSIVE\s|{CTE})|VALUES\s*\()"
BLOCK = r"/\*.*?(?:\*/|\Z)"
START = [
    re.compile(pattern, re.IGNORECASE | re.MULTILINE | re.DOTALL)
    for pattern in (rf"{BLOCK}|^[^\S\n]*{STATEMENT}", rf"{BLOCK}|--[^\n]*|\b{STATEMENT}", rf"\b{STATEMENT}")
]
# a doubled quote within reads as two quoted texts side by side; a bracket that is not closed reaches to the end, so that a
# text full of them is not searched once for each
QUOTED = r"""'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*(?:\]|\Z)"""
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
