"""Put SQL into one spelling: of the many in which training data writes a statement, the one a model can copy from its prompt.

    SELECT t2.NAME FROM Pets AS T1 JOIN owner AS T2 ON T1.oid = T2.id WHERE T1.kind = "dog"
    SELECT owner.name FROM pets JOIN owner ON pets.oid = owner.id WHERE pets.kind = 'dog'

Names are written as in the schema, in double quotes where needed; tables have their names instead of T1 and T2, which say
nothing until the FROM clause is reached; where ORDER BY and others name a result (`AS n`), it is written out; keywords are in
upper case, texts in single quotes. The meaning stays the same: all of Spider's dev answers in this spelling score as right in
execution and exact set match (`tests/test_spelling.py`, for the sample).
"""

import re
from collections.abc import Callable, Container
from string import ascii_lowercase, ascii_uppercase

from data.benchmark.prompt import RESERVED, name, target
from data.benchmark.schema import Schema

# an unclosed bracket extends to the end, as otherwise a text full of them would take quadratic time
PIECE = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*(?:\]|\Z)|(?:\w|[^\x00-\x7f\s])+|\s+|[^\w\s'"`\[]"""
)
KEYWORDS = frozenset(
    "all and as asc avg between by case cast count desc distinct else end except exists from group having in inner intersect "
    "is join left like limit max min not null on or order outer select sum then union when where".split()
)
JOINS = frozenset("cross full indexed natural right using window".split())
# words that no alias follows
OPERATORS = (KEYWORDS | RESERVED | JOINS | frozenset("filter glob match offset over partition range regexp with".split())) - {
    *("current_date", "current_time", "current_timestamp", "end", "null")
}
# words that bind no closer than a comparison, and those that may follow a term of ORDER BY or GROUP BY
LOOSE = frozenset("= < > ! and or not in is like between".split())
ENDS = frozenset(["", ",", "asc", "desc", "limit", "having", "order"])
LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)  # SQLite ignores case only in ASCII
CLAUSES = frozenset("select from where group having order limit on union intersect except".split())


def plain(sql: str, schema: Schema) -> str:
    """`sql` in one spelling. Aliases stay where needed: for tables joined with themselves, hidden, or called `cast`."""
    pieces = PIECE.findall(sql)
    if "".join(pieces) != sql or any(piece[0] == "[" and piece[-1] != "]" for piece in pieces):  # an unclosed quote
        return sql
    pieces = _with_results(_without_aliases(pieces), {_lower(name) for _, name in schema.columns})
    words = [piece for piece in pieces if not piece.isspace()]
    spell = _spelling(words, schema)
    tables = {_lower(name): name for name in reversed(schema.tables)}
    columns = {_lower(name): name for _, name in reversed(schema.columns)}
    names = _names_within(words, tables) | columns.keys() | tables.keys() | {"rowid", "oid", "_rowid_"}
    spelled, place = [], -1
    for piece in pieces:
        place += not piece.isspace()
        before, behind = (words[i] if 0 <= i < len(words) else "" for i in (place - 1, place + 1))
        low = _lower(piece)
        if piece[0] == '"' and _bare(piece) not in names and "." not in (before, behind):
            piece = "'" + piece[1:-1].replace('""', '"').replace("'", "''") + "'"
        elif piece[0] in '"`[':
            low = _bare(low)
            if before == "." or behind != "." and before.lower() not in ("as", "from", "join"):
                column = spell(place, low, words[place - 2] if before == "." else "")
                if column is not None:
                    piece = f'"{column}"' if low in KEYWORDS - RESERVED and before != "." else name(column)
            elif before.lower() != "as" and low in tables:
                piece = name(tables[low])
        elif before == ".":
            piece = spell(place, low, words[place - 2]) or columns.get(low, piece)
        elif low in tables and (behind == "." or before.lower() in ("from", "join")):
            piece = tables[low]
        elif low in KEYWORDS:
            # a column may be called `count` or `end`, too
            column = low in columns and behind != "(" and before in (",", "(", "=", "<", ">")
            piece = (spell(place, low) or columns[low]) if column else piece.upper()
        elif low in columns:
            piece = spell(place, low) or columns[low]
        else:
            piece = tables.get(low, piece)
        spelled.append(piece)
    return "".join(spelled)


def _names_within(words: list[str], tables: Container[str]) -> set[str]:
    """Words that may be names though the schema lacks them, so that in double quotes they need not be texts.

    These are all words without double quotes, aliases with or without AS, and the columns of common table expressions; and
    every word where the statement reads a table that neither the schema nor the statement itself defines.
    """
    lower = [_lower(word) for word in words] + [""]
    named = {_bare(word) for word in lower if word and word[0] not in "'\""} | _aliases(lower)
    common: set[str] = set()
    if lower[0] == "with":
        around = [(before, _bare(word), behind) for before, word, behind in zip(lower, lower[1:], lower[2:])]
        common = {word for before, word, behind in around if before in ("with", "recursive", ",") and behind in ("as", "(")}
        named |= {word for before, word, behind in around if before in ("(", ",") and behind in (",", ")")}
    read = {_bare(lower[place]) for place in _scopes(lower)[2] if _is_name(lower[place])}
    return named if all(table in tables or table in common for table in read) else named | set(map(_bare, lower))


def _spelling(words: list[str], schema: Schema) -> Callable[..., str | None]:
    """`spell(place, column, table)`: a column's spelling in the schema of its table, or of the first in FROM that has it.

    `column` is in lower case, `table` the name or alias before its full stop, if any; None where FROM does not tell.
    """
    lower = [_lower(word) for word in words] + [""] * 3
    scope, outer, places = _scopes(lower)
    known = {_lower(name): number for number, name in reversed(list(enumerate(schema.tables)))}
    own = {(table, _lower(name)): name for table, name in reversed(schema.columns)}
    tables: dict[int, dict[int, None]] = {}  # SELECT -> the tables of its FROM clause, in order
    named: dict[tuple[int, str], int] = {}  # (SELECT, name of a table in it) -> table
    for place in places:
        table = known.get(_bare(lower[place]), -1)
        tables.setdefault(scope[place], {})[table] = None
        alias = place + (1 + (lower[place + 1] == "as") if _has_alias(lower, place) else 0)
        named[scope[place], _bare(lower[alias])] = table
    find = _finder(named, outer)
    found: dict[tuple[int, str], str | None] = {}

    def spell(place: int, column: str, table: str = "") -> str | None:
        if table:
            select = find(scope[place], _bare(table))
            number = known.get(_bare(table), -1) if select is None else named[select, _bare(table)]
            return own.get((number, column))
        key = scope[place], column
        if key not in found:
            spelled = (own.get((number, column)) for number in tables.get(scope[place], ()))
            found[key] = next((name for name in spelled if name is not None), None)
        return found[key]

    return spell


def spelled(sql: str, schema: Schema) -> str:
    """A gold statement in one spelling, with the tables before its columns where `schema.full_names`."""
    sql = plain(target(sql), schema)
    return qualified(sql, schema) if schema.full_names else sql


def qualified(sql: str, schema: Schema) -> str:
    """A statement in one spelling with each column's table before it, also where SQL does not need it.

    Left as they are: names that match a column of none or of several tables in FROM, all of a SELECT whose tables have aliases
    or are SELECTs, and the ORDER BY of a set operation.
    """
    pieces = PIECE.findall(sql)
    words = [i for i, piece in enumerate(pieces) if not piece.isspace()]
    lower = [_lower(pieces[i]) for i in words] + [""] * 2
    scope, _, places = _scopes(lower)
    aliases = _aliases(lower)
    known = {_lower(table): number for number, table in enumerate(schema.tables)}
    tables: dict[int, list[int]] = {}  # SELECT -> the tables of its FROM clause
    left = {-1} | {scope[place] for place in places if _has_alias(lower, place) or _bare(lower[place]) not in known}
    for place in places:
        tables.setdefault(scope[place], []).append(known.get(_bare(lower[place]), -1))
    owners: dict[str, dict[int, str]] = {}  # column -> its spelling by table
    for table, column in schema.columns:
        owners.setdefault(_lower(column), {}).setdefault(table, column)
    spots, later = set(places), set()  # SELECTs after a set operator
    for place, i in enumerate(words):
        word, behind = lower[place : place + 2]
        if word == "select" and place and lower[place - 1] in ("all", "union", "intersect", "except"):
            later.add(scope[place])
        if word == "order" and scope[place] in later:
            left.add(scope[place])
        bare = _bare(word) if word[0] == '"' else word
        if bare in owners and bare not in aliases and word not in KEYWORDS and scope[place] not in left and place not in spots:
            found = [table for table in tables.get(scope[place], ()) if table in owners[bare]]
            if len(found) == 1 and "." not in (lower[place - 1], behind) and behind != "(":
                column = owners[bare][found[0]]
                column = name(column) if pieces[i][0] == '"' else column
                pieces[i] = f"{name(schema.tables[found[0]])}.{column}"
    return "".join(pieces)


def _aliases(lower: list[str]) -> set[str]:
    """The aliases of a statement, in lower case: names that follow AS, a closing bracket or another name."""
    pairs = zip(lower, lower[1:])
    return {_bare(word) for before, word in pairs if _is_name(word) and (before == "as" or before == ")" or _is_name(before))}


def _is_name(word: str) -> bool:
    """Whether a word, in lower case, may be a name, a text or a number, and is no word of SQL itself."""
    start = word[:1]
    return start in ("'", '"', "`", "[", "_") or not start.isascii() or start.isalnum() and word not in OPERATORS


def _has_alias(lower: list[str], place: int) -> bool:
    """Whether the table at a place of FROM, in lower case, has an alias."""
    behind = lower[place + 1]
    return behind == "as" or _is_name(behind)


def _without_aliases(pieces: list[str]) -> list[str]:
    """Replace aliases by the tables' names in the pieces of a statement, unless that could change its meaning."""
    words = [i for i, piece in enumerate(pieces) if not piece.isspace()]
    lower = [_lower(pieces[i]) for i in words] + [""] * 3
    scope, outer, tables = _scopes(lower)
    old: dict[tuple[int, str], str] = {}  # (SELECT, name of a table in it) -> its name without alias
    gone: set[int] = set()
    for place in tables:
        table, behind, alias = lower[place : place + 3]
        if behind == "." or behind == "as" and not alias:  # a table of an attached database; a statement that is cut off
            return pieces
        if table == ")" and not _has_alias(lower, place):
            continue
        name, kept = table, table
        if behind == "as":
            name = kept = alias
        elif _has_alias(lower, place):
            name = kept = behind
        if name != table and table != ")":
            if table in KEYWORDS:  # `cast.id` is not SQL, and one alias among tables' names is no style
                return pieces
            kept = pieces[words[place]]
            gone.update(range(words[place] + 1, words[place + 1 + (behind == "as")] + 1))
        if (scope[place], _bare(name)) in old:
            return pieces
        old[scope[place], _bare(name)] = kept
    new = {(select, _bare(kept)) for (select, _), kept in old.items()}
    if len(new) < len(old):
        return pieces

    find_old, find_new = _finder(old, outer), _finder(new, outer)
    renamed = {name for (_, name), kept in old.items() if _bare(kept) != name}
    written = list(pieces)
    for place, i in enumerate(words):
        if lower[place + 1] == "." and i not in gone:
            name = _bare(lower[place])
            select = find_old(scope[place], name)
            if select is None and name in renamed:  # for example of another part of a UNION
                return pieces
            kept = name if select is None else old[select, name]
            if find_new(scope[place], _bare(kept)) != select:
                return pieces
            if _lower(kept) != name:
                written[i] = kept
    return [piece for i, piece in enumerate(written) if i not in gone]


def _with_results(pieces: list[str], columns: Container[str]) -> list[str]:
    """Replace names that the SELECT list gives its results (`AS n`) by what they stand for, where clauses behind use them.

    In ORDER BY such a name goes before a column's, elsewhere behind. Left as they are: statements of several SELECTs side by
    side, and names within brackets or expressions, but for one side of a comparison.
    """
    words = [i for i, piece in enumerate(pieces) if not piece.isspace()]
    lower = [_lower(pieces[i]) for i in words] + [""]
    if lower[0] == "with" or {"union", "intersect", "except"} & set(lower):
        return pieces
    written, named = [[piece] for piece in pieces], {}
    depth, clause, begin = 0, "", 0
    for place, word in enumerate(lower[:-1]):
        depth += (word == "(") - (word == ")")
        if depth:
            continue
        clause = word if word in CLAUSES else clause
        before, behind, bare = lower[place - 1], lower[place + 1], _bare(word)
        if clause == "select" and word in ("select", "distinct", ","):
            begin = place + 1
        elif clause == "select" and before == "as" and begin < place - 1:
            named[bare] = slice(words[begin], words[place - 2] + 1), LOOSE.isdisjoint(lower[begin : place - 1])
        elif word[0] != "'" and bare in named and before in ("by", ",", "having", "and", "or"):
            meant, single = named[bare]
            compared = clause == "having" and behind in ("=", "<", ">", "!") and single
            if (
                clause == "order"
                and behind in ENDS
                or bare not in columns
                and (compared or clause == "group" and behind in ENDS)
            ):
                written[words[place]] = pieces[meant]
    return [piece for group in written for piece in group]


def _finder(names: Container[tuple[int, str]], outer: list[int | None]) -> Callable[[int | None, str], int | None]:
    """`find(select, name)`: the innermost of a SELECT and those around it with a table of that name; None if there is none."""
    known: dict[tuple[int, str], int | None] = {}  # saves climbing a deep nest of SELECTs from each level

    def find(select: int | None, name: str) -> int | None:
        passed = []
        while select is not None and (select, name) not in names and (select, name) not in known:
            passed.append(select)
            select = outer[select]
        found = known.get((select, name), select)
        known.update(((level, name), found) for level in passed)
        return found

    return find


def _bare(name: str) -> str:
    """A name in lower case, without quotes."""
    quote = name[:1] if len(name) > 1 and name[0] in "\"'`[" else ""
    return _lower(name[1:-1].replace(2 * quote, quote) if quote and quote != "[" else name[1:-1] if quote else name)


def _lower(text: str) -> str:
    return text.translate(LOWER)


def _scopes(words: list[str]) -> tuple[list[int], list[int | None], list[int]]:
    """-> for each word the number of its SELECT, for each SELECT the one around it, if any, and the places of tables in FROM.

    The place of a SELECT in FROM, or of an aliased group in brackets, is its closing bracket.
    """
    outer: list[int | None] = [None]
    current, stack, scope, tables = 0, [], [], []
    clause: dict[int, str] = {}  # SELECT -> its current clause
    listed = False  # a table comes next
    for place, word in enumerate(words):
        if word == "(":
            stack.append((current, listed, words[place + 1] == "select"))
        elif word == ")" and stack:
            current, listed, selects = stack.pop()
            if listed and (selects or _has_alias(words, place)):
                tables.append(place)
            listed = False
        elif word == "select":
            outer.append(current if place and words[place - 1] == "(" else outer[current])
            current, listed = len(outer) - 1, False
        elif listed and word:
            tables.append(place)
            listed = False
        if word in CLAUSES:
            clause[current] = word
        listed = listed and word == "(" or word in ("from", "join") or word == "," and clause.get(current) == "from"
        scope.append(current)
    return scope, outer, tables
