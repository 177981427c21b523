"""Vary the schema each time that a question is asked, so that a model learns to read schemas, not to memorise them.

Spider's training questions are about 140 databases, each of whose schemas a model sees some 50 times per epoch; its dev
questions are about 20 others.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from data.benchmark.schema import Benchmark, Example, Schema
from data.training.batches import grouped


def vary(benchmark: Benchmark, omitted: float, variants: int, seed: int, together: int = 1) -> Benchmark:
    """Repeat the training questions `variants` times, one pass after another, with varied schemas.

    Groups of up to `together` questions of a database, drawn anew in each pass, get one schema, which they may share. Its
    columns are shuffled, and of the tables and columns that no answer or value of the group names a share is left out, drawn
    between 0 and `omitted`. Nothing changes where `omitted` is 0.
    """
    if not omitted:
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
                own, schema = varied(own, benchmark.schemas[own[0].db_id], omitted, rng)
                name = f"{names[numbers[0]]}#{variant}.{numbers[0]}"
                schemas[name] = schema
                changed |= {number: replace(example, db_id=name) for number, example in zip(numbers, own)}
        examples += [changed[number] for number in range(len(names))]
    return replace(benchmark, schemas=schemas, splits=benchmark.splits | dict(train=examples))


def varied(examples: Sequence[Example], schema: Schema, omitted: float, rng: random.Random) -> tuple[list[Example], Schema]:
    """Examples of one database and a schema for them, as `vary` makes them."""
    words = set().union(*(_words(example.sql) for example in examples))
    mentioned = {value["column"] for example in examples for value in example.values}
    fraction = rng.uniform(0, omitted)
    needed = {i for i, name in enumerate(schema.tables) if _words(name) <= words} | {schema.columns[i][0] for i in mentioned}
    tables = [i for i in range(len(schema.tables)) if i in needed or rng.random() > fraction]
    columns = [
        i
        for i, (table, name) in enumerate(schema.columns)
        if table == -1 or (table in tables and (_words(name) <= words or i in mentioned or rng.random() > fraction))
    ]
    behind = columns[1:]  # the first column is *
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
