"""Schemas that vary lose nothing that an answer needs, and every epoch sees its own."""

import random
import re
from collections import Counter
from dataclasses import replace

import pytest

import flan_t5_base
import llama_65b
from data.benchmark import sample, spider
from data.benchmark.prompt import fit
from data.benchmark.schema import Benchmark, Example, Schema
from data.training.batches import GROUP_SIZE
from data.training.variation import varied, vary

SCHEMA = Schema(
    "zoo",
    ("keepers", "Animals", "cages"),
    ((-1, "*"), (0, "id"), (0, "name"), (1, "id"), (1, "Name"), (1, "cage id"), (1, "weight"), (2, "id"), (2, "size")),
    ("text", *["number"] * 8),
    (1, 3, 7),
    ((5, 7),),
)
EXAMPLE = Example(0, "zoo", "Which of Leo's cages?", "SELECT size FROM cages", ({"column": 4, "text": "Leo"},))


def names(schema: Schema) -> set[str]:
    return {f"{schema.tables[table]}.{name}" for table, name in schema.columns[1:]}


@pytest.mark.parametrize("seed", range(50))
def test_what_is_needed_stays_and_what_stays_is_whole(seed):
    (example,), schema = varied([EXAMPLE], SCHEMA, 0.9, random.Random(seed))
    assert {"cages.size", "Animals.Name"} <= names(schema) <= names(SCHEMA)
    assert schema.columns[0] == (-1, "*") and len(schema.columns) == len(schema.column_types) == len(set(schema.columns))
    ((value,),) = ([schema.columns[value["column"]] for value in example.values],)
    assert (schema.tables[value[0]], value[1]) == ("Animals", "Name")
    keys = {f"{schema.tables[schema.columns[i][0]]}.{schema.columns[i][1]}" for i in schema.primary_keys}
    assert keys == {"keepers.id", "Animals.id", "cages.id"} & names(schema)
    assert bool(schema.foreign_keys) == ({"Animals.cage id", "cages.id"} <= names(schema))
    for pair in schema.foreign_keys:
        assert [schema.columns[i][1] for i in pair] == ["cage id", "id"]


def test_some_is_left_out_and_columns_move():
    found = [varied([EXAMPLE], SCHEMA, 0.9, random.Random(seed))[1] for seed in range(50)]
    assert {"keepers", "Animals", "cages"} in [set(schema.tables) for schema in found]
    assert any("keepers" not in schema.tables for schema in found)
    assert len({tuple(name for _, name in schema.columns) for schema in found}) > 20


def test_the_benchmark_stays_as_it_is_but_for_train():
    benchmark = spider.load(sample.build(), values=True, overfit=40)
    assert vary(benchmark, 0.0, 3, 0) is benchmark
    shown = vary(benchmark, 0.4, 3, 0)
    assert shown.splits["dev"] == benchmark.splits["dev"] and len(shown.splits["train"]) == 3 * 40
    assert [e.question for e in shown.splits["train"]] == 3 * [e.question for e in benchmark.splits["train"]]
    assert vary(benchmark, 0.4, 3, 0) == shown != vary(benchmark, 0.4, 3, 1)
    assert vary(benchmark, 0.4, 5, 0).splits["train"][: 3 * 40] == shown.splits["train"]  # more epochs begin as fewer do
    full = vary(spider.load(sample.build(), full_names=True, overfit=4), 0.4, 2, 0)
    assert all(schema.full_names for schema in full.schemas.values()) and len(full.schemas) > 2 * 4
    prompts = [fit(e.question, shown.schemas[e.db_id], e.values, 10**6, len)[0] for e in shown.splits["train"]]
    assert len(set(prompts)) > 100 and not any("#" in prompt for prompt in prompts)


@pytest.mark.parametrize("seed", range(30))
def test_a_schema_that_questions_share_keeps_what_each_of_them_needs(seed):
    other = replace(EXAMPLE, index=1, sql="SELECT weight FROM Animals", values=({"column": 2, "text": "Ann"},))
    (first, second), schema = varied([EXAMPLE, other], SCHEMA, 0.9, random.Random(seed))
    assert {"cages.size", "Animals.Name", "Animals.weight", "keepers.name"} <= names(schema)
    assert set(schema.tables) == set(SCHEMA.tables)
    for example, column in ((first, "Name"), (second, "name")):
        assert [schema.columns[value["column"]][1] for value in example.values] == [column]
    assert [(e.index, e.sql, e.question) for e in (first, second)] == [(e.index, e.sql, e.question) for e in (EXAMPLE, other)]
    fewest = min(len(names(varied([EXAMPLE, other], SCHEMA, 0.9, random.Random(own))[1])) for own in range(50))
    assert fewest < len(names(SCHEMA))  # what neither needs may leave


@pytest.fixture(scope="module")
def asked() -> Benchmark:
    return spider.load(sample.build(), values=True, full_names=True, overfit=100)


@pytest.fixture(scope="module")
def shared(asked) -> Benchmark:
    return vary(asked, 0.4, 3, 0, GROUP_SIZE)


def test_questions_of_one_database_share_a_varied_schema(asked, shared):
    questions = asked.splits["train"]
    assert [example.question for example in shared.splits["train"]] == 3 * [example.question for example in questions]
    assert shared == vary(asked, 0.4, 3, 0, GROUP_SIZE) != vary(asked, 0.4, 3, 1, GROUP_SIZE)
    databases = Counter(example.db_id for example in questions)
    company = []
    for start in (0, 100, 200):
        examples = shared.splits["train"][start : start + 100]
        assert all(example.db_id.startswith(f"{old.db_id}#") for example, old in zip(examples, questions))
        groups = Counter(example.db_id for example in examples)
        assert max(groups.values()) == GROUP_SIZE < max(databases.values())
        # as few schemas as there may be
        found = Counter(name.split("#")[0] for name in groups)
        assert found == {name: -(-count // GROUP_SIZE) for name, count in databases.items()}
        company.append({name: frozenset(i for i, e in enumerate(examples) if e.db_id == name) for name in groups})
    assert len({name for own in company for name in own}) == sum(map(len, company))  # each pass has its own
    crowded = {i for i, example in enumerate(questions) if databases[example.db_id] > GROUP_SIZE}
    full = [{own for own in each.values() if len(own) == GROUP_SIZE and own <= crowded} for each in company]
    # and other questions share one: of nine, the same eight may by chance
    assert len(full[0]) > 2 and len(full[0] & full[1]) <= 1


def test_shared_schemas_keep_what_the_answers_and_values_of_all_their_questions_name(asked, shared):
    left = 0
    for old, example in zip(3 * asked.splits["train"], shared.splits["train"], strict=True):
        whole, schema = asked.schemas[old.db_id], shared.schemas[example.db_id]
        assert schema.db_id == whole.db_id and schema.full_names and names(schema) <= names(whole)
        words = set(re.findall(r"\w+", example.sql))
        needed = {f"{whole.tables[t]}.{name}" for t, name in whole.columns[1:] if {whole.tables[t], name} <= words}
        assert needed <= names(schema)
        mentioned = [[own.columns[value["column"]][1] for value in e.values] for e, own in ((old, whole), (example, schema))]
        assert mentioned[0] == mentioned[1]
        left += len(names(whole) - names(schema))
    assert left > 300  # of each question's schema a column or more, on average


@pytest.mark.parametrize("script", [flan_t5_base, llama_65b], ids=["flan_t5_base", "llama_65b"])
def test_a_run_asks_anew_each_epoch(run, script, monkeypatch):
    seen, real = [], script.collate
    monkeypatch.setattr(script, "collate", lambda rows, *pad, **how: seen.append(rows) or real(rows, *pad, **how))
    options = ["--overfit", "8", "--epochs", "2", "--max_updates", "3", "--update_examples", "8", "--max_output_tokens", "4"]
    done = run(script, *options, "--vary_schema", "0.8")
    trained = [rows for rows in seen if len(rows) == 8][:3]
    first, second, third = ({row["question"]: tuple(row["input_ids"]) for row in rows} for rows in trained)
    assert first.keys() == second.keys() and sum(first[key] != second[key] for key in first) > 4
    assert third.keys() == first.keys() and first != third != second and len(done["losses"]) == 3


def test_a_name_of_several_words_is_needed_where_all_of_them_are_named():
    example = replace(EXAMPLE, sql='SELECT count(*) FROM Animals WHERE "cage id" = 3', values=())
    for seed in range(30):
        assert {"Animals.cage id"} <= names(varied([example], SCHEMA, 0.9, random.Random(seed))[1])
