"""Another part of the schema each time a question is asked, so that a model learns to read schemas and not to know them.

Spider's training questions ask 140 databases, each of which a model meets some 50 times an epoch in the same words; its dev
questions ask 20 others.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from data.benchmark.schema import Benchmark, Example, Schema
from data.training.batches import grouped


def vary(benchmark: Benchmark, most: float, variants: int, seed: int, together: int = 1) -> Benchmark:
    """The benchmark with its training questions `variants` times, one pass behind the other, with schemas of their own.

    `together`: so many questions of a database, drawn anew in each pass, have one schema, which they may share. Its columns
    stand in another order, and of the tables and columns that none of their answers or values names a share is left out, drawn
    between 0 and `most`. Nothing changes where `most` is 0.
    """
    if not most:
        return benchmark
    examples, schemas = [], dict(benchmark.schemas)
    for variant in range(variants):
        rng = random.Random(f"{seed}/{variant}")
        order = list(range(len(benchmark.splits["train"])))
        if together > 1:
            rng.shuffle(order)
        names = [example.db_id for example in benchmark.splits["train"]]
        changed: dict[int, Example] = {}
        for group in grouped(order, names):
            for start in range(0, len(group), together):
                numbers = group[start : start + together]
                own = [benchmark.splits["train"][number] for number in numbers]
                own, schema = varied(own, benchmark.schemas[own[0].db_id], most, rng)
                name = f"{names[numbers[0]]}#{variant}.{numbers[0]}"
                schemas[name] = schema
                changed |= {number: replace(example, db_id=name) for number, example in zip(numbers, own)}
        examples += [changed[number] for number in range(len(names))]
    return replace(benchmark, schemas=schemas, splits=benchmark.splits | dict(train=examples))


def varied(examples: Sequence[Example], schema: Schema, most: float, rng: random.Random) -> tuple[list[Example], Schema]:
    """Examples of one database and a schema for them, as `vary` makes them."""
    words = set().union(*(_words(example.sql) for example in examples))
    mentioned = {value["column"] for example in examples for value in example.values}
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

    def placed(example: Example) -> Example:
        return replace(example, values=tuple(value | dict(column=place[value["column"]]) for value in example.values))

    return [placed(example) for example in examples], part


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
