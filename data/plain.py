"""SQL in one spelling: of the many ways in which training data writes a statement, the one that the prompt lets a model copy.

    SELECT t2.NAME FROM Pets AS T1 JOIN owner AS T2 ON T1.oid = T2.id WHERE T1.kind = "dog"
    SELECT owner.name FROM pets JOIN owner ON pets.oid = owner.id WHERE pets.kind = 'dog'

Names stand as the schema writes them, tables by their names instead of T1 and T2, which say nothing until the FROM clause is
reached, keywords in upper case, texts in single quotes. The statement means the same: Spider's own dev answers, so written,
all score as right in execution and in exact set match (`tests/test_plain.py` does it for the sample).
"""

import re

from data.spider import Schema

PIECE = re.compile(r"""'(?:[^']|'')*'|"[^"]*"|`[^`]*`|\w+|\s+|[^\w\s]""")
ALIAS = re.compile(r"t\d+")
KEYWORDS = frozenset(
    "all and as asc avg between by case cast count desc distinct else end except exists from group having in inner intersect "
    "is join left like limit max min not null on or order outer select sum then union when where".split()
)


def plain(sql: str, schema: Schema) -> str:
    """`sql` in one spelling. Aliases stay where a statement needs them: a table is joined with itself, or hidden by another."""
    pieces = PIECE.findall(sql)
    if "".join(pieces) != sql:  # a quote that is not closed
        return sql
    pieces = _without_aliases(pieces)
    tables = {name.lower(): name for name in schema.tables}
    columns = {name.lower(): name for _, name in reversed(schema.columns)}
    of = {(schema.tables[table].lower(), name.lower()): name for table, name in schema.columns if table >= 0}
    words = [piece for piece in pieces if not piece.isspace()]
    spelled, place = [], -1
    for piece in pieces:
        place += not piece.isspace()
        before, behind = (words[i] if 0 <= i < len(words) else "" for i in (place - 1, place + 1))
        low = piece.lower()
        if piece[0] == '"' and piece[1:-1].lower() not in columns.keys() | tables.keys():
            piece = "'" + piece[1:-1].replace("'", "''") + "'"
        elif before == ".":
            piece = of.get((words[place - 2].lower(), low), columns.get(low, piece))
        elif low in tables and (behind == "." or before.lower() in ("from", "join")):
            piece = tables[low]
        elif low in KEYWORDS:
            # a column may be called `count` or `end`, too
            piece = columns[low] if low in columns and behind != "(" and before in (",", "(", "=", "<", ">") else piece.upper()
        else:
            piece = columns.get(low, tables.get(low, piece))
        spelled.append(piece)
    return "".join(spelled)


def _without_aliases(pieces: list[str]) -> list[str]:
    """The pieces of a statement with tables' names instead of T1, T2 ..., or as they are where its meaning would change."""
    words = [i for i, piece in enumerate(pieces) if not piece.isspace()]
    scope, outer = _scopes([pieces[i].lower() for i in words])
    named: dict[tuple[int, str], str] = {}  # (SELECT, alias) -> table
    gone: set[int] = set()
    for place in range(1, len(words) - 1):
        table, alias = (pieces[words[i]] for i in (place - 1, place + 1))
        if pieces[words[place]].lower() == "as" and ALIAS.fullmatch(alias.lower()) and table != ")":
            key = (scope[place], alias.lower())
            if key in named or any(table.lower() == other.lower() for (own, _), other in named.items() if own == key[0]):
                return pieces
            named[key] = table
            gone.update(range(words[place - 1] + 1, words[place + 1] + 1))
    found = list(pieces)
    for place, i in enumerate(words[:-1]):
        alias = pieces[i].lower()
        if i in gone or not ALIAS.fullmatch(alias) or pieces[words[place + 1]] != ".":
            continue
        select = here = scope[place]
        while select is not None and (select, alias) not in named:
            select = outer[select]
        if select is None:  # the alias of a subquery
            continue
        table = named[select, alias]
        if select != here and any(own == here and table.lower() == other.lower() for (own, _), other in named.items()):
            return pieces
        found[i] = table
    return [piece for i, piece in enumerate(found) if i not in gone]


def _scopes(words: list[str]) -> tuple[list[int], list[int | None]]:
    """For each word the number of its SELECT, and for each SELECT that in which it stands, if any."""
    outer: list[int | None] = [None]
    current, stack, scope = 0, [], []
    for place, word in enumerate(words):
        if word == "(":
            stack.append(current)
        elif word == ")" and stack:
            current = stack.pop()
        elif word == "select":
            outer.append(current if place and words[place - 1] == "(" else outer[current])
            current = len(outer) - 1
        scope.append(current)
    return scope, outer
