"""SQL in one spelling: of the many ways in which training data writes a statement, the one that the prompt lets a model copy.

    SELECT t2.NAME FROM Pets AS T1 JOIN owner AS T2 ON T1.oid = T2.id WHERE T1.kind = "dog"
    SELECT owner.name FROM pets JOIN owner ON pets.oid = owner.id WHERE pets.kind = 'dog'

Names stand as the schema writes them, in double quotes where they need some, tables by their names instead of T1 and T2, which
say nothing until the FROM clause is reached, keywords in upper case, texts in single quotes. The statement means the same:
Spider's own dev answers, so written, all score as right in execution and in exact set match (`tests/test_plain.py` does it for
the sample).
"""

import re
from collections.abc import Callable, Container

from data.prompt import RESERVED, name, target
from data.spider import Schema

PIECE = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^\[\]]*\]|\w+|\s+|[^\w\s'"`\[]""")
ALIAS = re.compile(r"t\d+")
KEYWORDS = frozenset(
    "all and as asc avg between by case cast count desc distinct else end except exists from group having in inner intersect "
    "is join left like limit max min not null on or order outer select sum then union when where".split()
)
JOINS = frozenset("cross full natural right using".split())
CLAUSES = frozenset("select from where group having order limit on union intersect except".split())


def plain(sql: str, schema: Schema) -> str:
    """`sql` in one spelling. Aliases stay where it needs them: tables joined with themselves, hidden, or called `cast`."""
    pieces = PIECE.findall(sql)
    if "".join(pieces) != sql:  # a quote that is not closed
        return sql
    pieces = _without_aliases(pieces)
    words = [piece for piece in pieces if not piece.isspace()]
    spell = _spelling(words, schema)
    tables = {name.lower(): name for name in reversed(schema.tables)}
    columns = {name.lower(): name for _, name in reversed(schema.columns)}
    names = columns.keys() | tables.keys() | {"rowid", "oid", "_rowid_"} | {word.lower() for word in words if word[0] != '"'}
    names |= {_bare(behind) for word, behind in zip(words, words[1:]) if word.lower() == "as"}
    spelled, place = [], -1
    for piece in pieces:
        place += not piece.isspace()
        before, behind = (words[i] if 0 <= i < len(words) else "" for i in (place - 1, place + 1))
        low = piece.lower()
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


def _spelling(words: list[str], schema: Schema) -> Callable[..., str | None]:
    """`spell(place, column, table)`: how a column at a place is written by its table, or by the first in FROM that has it.

    `column` in lower case, `table` the name or alias before its full stop, if any; None where FROM does not tell.
    """
    lower = [word.lower() for word in words] + [""] * 3
    scope, outer, places = _scopes(lower)
    known = {name.lower(): number for number, name in reversed(list(enumerate(schema.tables)))}
    own = {(table, name.lower()): name for table, name in reversed(schema.columns)}
    tables: dict[int, dict[int, None]] = {}  # SELECT -> those of its FROM clause, in order
    named: dict[tuple[int, str], int] = {}  # (SELECT, name of a table within) -> table
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
    """A gold statement in one spelling, with its columns' tables where the schema's names are full."""
    sql = plain(target(sql), schema)
    return qualified(sql, schema) if schema.full_names else sql


def qualified(sql: str, schema: Schema) -> str:
    """A statement in one spelling with its columns' tables before them, also where SQL needs none.

    What could be a column of no table or of several in its FROM clause stays, and so does all in a SELECT whose tables have
    aliases or are SELECTs.
    """
    pieces = PIECE.findall(sql)
    words = [i for i, piece in enumerate(pieces) if not piece.isspace()]
    lower = [pieces[i].lower() for i in words] + [""] * 2
    scope, _, places = _scopes(lower)
    fixed = KEYWORDS | {behind for word, behind in zip(lower, lower[1:]) if word == "as"}
    known = {table.lower(): number for number, table in enumerate(schema.tables)}
    tables: dict[int, list[int]] = {}  # SELECT -> those of its FROM clause
    left = {-1} | {scope[place] for place in places if _has_alias(lower, place) or _bare(lower[place]) not in known}
    for place in places:
        tables.setdefault(scope[place], []).append(known.get(_bare(lower[place]), -1))
    owners: dict[str, dict[int, str]] = {}  # column -> how each of its tables spells it
    for table, column in schema.columns:
        owners.setdefault(column.lower(), {}).setdefault(table, column)
    spots = set(places)
    for place, i in enumerate(words):
        word, behind = lower[place : place + 2]
        word = _bare(word) if word[0] == '"' else word
        if word in owners and lower[place] not in fixed and scope[place] not in left and place not in spots:
            found = [table for table in tables.get(scope[place], ()) if table in owners[word]]
            if len(found) == 1 and "." not in (lower[place - 1], behind) and behind != "(":
                column = owners[word][found[0]]
                column = name(column) if pieces[i][0] == '"' else column
                pieces[i] = f"{name(schema.tables[found[0]])}.{column}"
    return "".join(pieces)


def _has_alias(lower: list[str], place: int) -> bool:
    """Whether the table at a place of FROM, all in lower case, has another name behind it."""
    behind = lower[place + 1]
    return behind == "as" or behind[:1].isidentifier() and behind not in KEYWORDS | JOINS


def _without_aliases(pieces: list[str]) -> list[str]:
    """The pieces of a statement with tables' names instead of T1, T2 ..., or as they are where its meaning would change."""
    words = [i for i, piece in enumerate(pieces) if not piece.isspace()]
    lower = [pieces[i].lower() for i in words] + [""] * 3
    scope, outer, tables = _scopes(lower)
    old: dict[tuple[int, str], str] = {}  # (SELECT, name of a table within) -> its name without an alias
    gone: set[int] = set()
    for place in tables:
        table, behind, alias = lower[place : place + 3]
        if behind == ".":  # of a named database
            return pieces
        name, kept = table, table
        if behind == "as":
            name = kept = alias
        elif behind[:1].isidentifier() and behind not in KEYWORDS | JOINS:
            name = kept = behind
        if behind == "as" and ALIAS.fullmatch(alias) and table != ")":
            if table in KEYWORDS:  # `cast.id` is no SQL, and one alias among names of tables no style
                return pieces
            kept = pieces[words[place]]
            gone.update(range(words[place] + 1, words[place + 2] + 1))
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
            if select is None and name in renamed:  # of another part of a UNION, say
                return pieces
            kept = name if select is None else old[select, name]
            if find_new(scope[place], _bare(kept)) != select:
                return pieces
            if kept.lower() != name:
                written[i] = kept
    return [piece for i, piece in enumerate(written) if i not in gone]


def _finder(names: Container[tuple[int, str]], outer: list[int | None]) -> Callable[[int | None, str], int | None]:
    """`find(select, name)`: the innermost SELECT, from one outwards, in which a table has a name; None where there is none."""
    known: dict[tuple[int, str], int | None] = {}  # or a deep nest of SELECTs would be climbed from each of its levels

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
    """A name in lower case and without its quotes."""
    quote = name[:1] if len(name) > 1 and name[0] in "\"'`[" else ""
    return (name[1:-1].replace('""', '"') if quote == '"' else name[1:-1] if quote else name).lower()


def _scopes(words: list[str]) -> tuple[list[int], list[int | None], list[int]]:
    """For each word its SELECT's number, for each SELECT that in which it stands, if any, and where tables of FROM stand."""
    outer: list[int | None] = [None]
    current, stack, scope, tables = 0, [], [], []
    clause: dict[int, str] = {}  # SELECT -> that in which it is
    listed = False  # a table comes next
    for place, word in enumerate(words):
        if word == "(":
            stack.append((current, listed))
        elif word == ")" and stack:
            current, listed = stack.pop()
            if listed and words[place + 1] and (words[place + 1] == "as" or ALIAS.fullmatch(words[place + 1])):
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
