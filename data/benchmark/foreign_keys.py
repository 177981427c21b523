"""Guess the foreign keys that a database does not declare, from names, and confirm them by values."""

from collections import defaultdict
from pathlib import Path

from data.benchmark.schema import Schema
from data.sqlite.execute import Executor, quoted

NAMELESS = frozenset(("id", "key", "no", "nr", "rowid"))  # names of keys that do not tell their table


def guess(database: str | Path, schema: Schema) -> list[tuple[int, int]]:
    """Foreign keys that the schema lacks, as pairs of columns (child, parent) like those of `Schema.foreign_keys`.

    A column is a candidate where its name is, or ends with, the other table's key (`customer_id`), or is that table's name in
    singular or plural with or without the key's (`customer`, `Customer Nr`). It counts where it holds values, all of which the
    key holds too. A key is a primary key of one column, or, where a table declares none, a column with unique values that is
    called `id` or like its table. Each column refers to one key at most.
    """
    declared = {child for child, _ in schema.foreign_keys}
    with Executor() as executor:

        def true(statements: list[str]) -> list[bool]:
            return [result.rows == [(1,)] for result in executor.run([(database, sql) for sql in statements])]

        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        real = {name for (name,) in executor.run([(database, query)])[0].rows or ()}
        keys = _keys(schema, real, true)
        wanted = _alike(schema, keys)
        pairs = [
            (child, parent)
            for child, (table, _) in enumerate(schema.columns)
            if table >= 0 and schema.tables[table] in real and child not in declared
            for parent in wanted(child)
        ]
        contained = []
        for child, parent in pairs:
            (column, own), (key, other) = _sql(schema, child), _sql(schema, parent)
            filled = f"FROM {own} WHERE {own}.{column} IS NOT NULL"
            strange = f"{filled} AND {own}.{column} NOT IN (SELECT {key} FROM {other} WHERE {key} IS NOT NULL)"
            contained.append(f"SELECT EXISTS (SELECT 1 {filled}) AND NOT EXISTS (SELECT 1 {strange})")
        found: dict[int, int] = {}
        for (child, parent), holds in zip(pairs, true(contained)):
            if holds:
                found.setdefault(child, parent)
    return list(found.items())


def _sql(schema: Schema, column: int) -> tuple[str, str]:
    """The quoted names of a column and of its table."""
    table, name = schema.columns[column]
    return quoted(name), quoted(schema.tables[table])


def _keys(schema: Schema, real: set[str], true) -> dict[int, int]:
    """Table -> its key column, for the tables that have one."""
    columns, declared = defaultdict(list), defaultdict(list)
    for column, (table, _) in enumerate(schema.columns):
        columns[table].append(column)
    for column in schema.primary_keys:
        declared[schema.columns[column][0]].append(column)
    keys, likely = {}, []
    for table, name in enumerate(schema.tables):
        if declared[table]:
            keys |= {table: declared[table][0]} if len(declared[table]) == 1 else {}
        elif name in real:
            named = NAMELESS | {word + end for word in _words(name) for end in ("", *NAMELESS)}
            likely += [(table, column) for column in columns[table] if _folded(schema.columns[column][1]) in named]
    statements = []
    for _, column in likely:
        name, table = _sql(schema, column)
        statements.append(f"SELECT count(*) > 0 AND count(*) = count(DISTINCT {table}.{name}) FROM {table}")
    for (table, column), unique in zip(likely, true(statements)):
        if unique:
            keys.setdefault(table, column)
    return keys


def _alike(schema: Schema, keys: dict[int, int]):
    """`wanted(column)`: the keys that its name may refer to, likeliest first."""
    exact, endings = defaultdict(list), []
    for table, column in keys.items():
        key, words = _folded(schema.columns[column][1]), _words(schema.tables[table])
        whole = [word + key for word in words] + ([key] if key not in NAMELESS else [])
        for name in whole:
            exact[name].append(column)
        endings += [(name, column) for name in whole]
        for word in words:
            exact[word].append(column)

    def wanted(column: int) -> list[int]:
        table, name = schema.columns[column][0], _folded(schema.columns[column][1])
        if any(name.startswith(word) for word in _words(schema.tables[table])):  # named after its own table
            return []
        ends = [parent for ending, parent in endings if name.endswith(ending)]
        return [parent for parent in dict.fromkeys(exact[name] + ends) if parent != column]

    return wanted


def _folded(name: str) -> str:
    """A name without case, spaces and punctuation."""
    return "".join(filter(str.isalnum, name.casefold()))


def _words(table: str) -> list[str]:
    """A table's name and its possible singular forms."""
    name = _folded(table)
    others = [name.removesuffix(end) + start for end, start in (("ies", "y"), ("es", ""), ("s", "")) if name.endswith(end)]
    return [name, *(word for word in others if word)]
