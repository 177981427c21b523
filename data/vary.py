"""Another part of the schema each time a question is asked, so that a model learns to read schemas and not to know them.

Spider's training questions ask 140 databases, each of which a model meets some 50 times an epoch in the same words; its dev
questions ask 20 others.
"""

import random
import re
from dataclasses import replace

from data.spider import Benchmark, Example, Schema


def vary(benchmark: Benchmark, most: float, variants: int, seed: int) -> Benchmark:
    """The benchmark with its training questions `variants` times, one pass behind the other, each with a schema of its own.

    Columns stand in another order, and of the tables and columns that neither the answer nor a value of the question names a
    share is left out, drawn for each question between 0 and `most`. Nothing changes where `most` is 0.
    """
    if not most:
        return benchmark
    examples, schemas = [], dict(benchmark.schemas)
    for variant in range(variants):
        rng = random.Random(f"{seed}/{variant}")
        for number, example in enumerate(benchmark.splits["train"]):
            own, schema = varied(example, benchmark.schemas[example.db_id], most, rng)
            name = f"{example.db_id}#{variant}.{number}"
            schemas[name] = schema
            examples.append(replace(own, db_id=name))
    return replace(benchmark, schemas=schemas, splits=benchmark.splits | dict(train=examples))


def varied(example: Example, schema: Schema, most: float, rng: random.Random) -> tuple[Example, Schema]:
    """An example and its schema, as `vary` makes them."""
    words = _words(example.sql)
    mentioned = {value["column"] for value in example.values}
    share = rng.uniform(0, most)
    needed = {i for i, name in enumerate(schema.tables) if _words(name) <= words} | {schema.columns[i][0] for i in mentioned}
    tables = [i for i in range(len(schema.tables)) if i in needed or rng.random() > share]
    columns = [
        i
        for i, (table, name) in enumerate(schema.columns)
        if table == -1 or (table in tables and (_words(name) <= words or i in mentioned or rng.random() > share))
    ]
    behind = columns[1:]  # the first is *
    rng.shuffle(behind)
    columns = [columns[0], *behind]
    place = {old: new for new, old in enumerate(columns)}
    table_place = {-1: -1} | {old: new for new, old in enumerate(tables)}
    part = replace(
        schema,
        tables=tuple(schema.tables[i] for i in tables),
        columns=tuple((table_place[schema.columns[i][0]], schema.columns[i][1]) for i in columns),
        column_types=tuple(schema.column_types[i] for i in columns),
        primary_keys=tuple(place[i] for i in schema.primary_keys if i in place),
        foreign_keys=tuple((place[a], place[b]) for a, b in schema.foreign_keys if a in place and b in place),
    )
    return replace(example, values=tuple(value | dict(column=place[value["column"]]) for value in example.values)), part


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
