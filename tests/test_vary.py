"""Schemas that vary lose nothing that an answer needs, and every epoch sees its own."""

import random
from dataclasses import replace

import pytest

import flan_t5_base
import llama_65b
from data import sample, spider
from data.batches import micro_batches
from data.checkpoints import seal
from data.prompt import fit
from data.vary import varied, vary

SCHEMA = spider.Schema(
    "zoo",
    ("keepers", "Animals", "cages"),
    ((-1, "*"), (0, "id"), (0, "name"), (1, "id"), (1, "Name"), (1, "cage id"), (1, "weight"), (2, "id"), (2, "size")),
    ("text", *["number"] * 8),
    (1, 3, 7),
    ((5, 7),),
)
EXAMPLE = spider.Example(0, "zoo", "Which of Leo's cages?", "SELECT size FROM cages", ({"column": 4, "text": "Leo"},))


def names(schema: spider.Schema) -> set[str]:
    return {f"{schema.tables[table]}.{name}" for table, name in schema.columns[1:]}


@pytest.mark.parametrize("seed", range(50))
def test_what_is_needed_stays_and_what_stays_is_whole(seed):
    example, schema = varied(EXAMPLE, SCHEMA, 0.9, random.Random(seed))
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
    found = [varied(EXAMPLE, SCHEMA, 0.9, random.Random(seed))[1] for seed in range(50)]
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


def test_each_epoch_has_its_own_variant():
    lengths = [random.Random(i).randint(5, 50) for i in range(3 * 20)]
    seen = [[] for _ in range(7)]
    for update, (batch, whole) in enumerate(micro_batches(lengths, 4, 1, 1, 0, 0, 0, 7 * 5, lengths, variants=3)):
        assert whole == [batch]
        seen[update // 5] += batch
    for epoch, indices in enumerate(seen):
        first = epoch % 3 * 20
        assert sorted(indices) == list(range(first, first + 20))


@pytest.mark.parametrize("script", [flan_t5_base, llama_65b], ids=["flan_t5_base", "llama_65b"])
def test_a_run_asks_anew_each_epoch(run, script, monkeypatch):
    seen, real = [], script.collate
    monkeypatch.setattr(script, "collate", lambda rows, pad: seen.append(rows) or real(rows, pad))
    options = ["--overfit", "8", "--epochs", "2", "--max_updates", "3", "--batch_size", "8", "--max_output_tokens", "4"]
    done = run(script, *options, "--vary_schema", "0.8")
    trained = [rows for rows in seen if len(rows) == 8][:3]
    first, second, third = ({row["question"]: tuple(row["input_ids"]) for row in rows} for rows in trained)
    assert first.keys() == second.keys() and sum(first[key] != second[key] for key in first) > 4
    assert third.keys() == first.keys() and first != third != second and len(done["losses"]) == 3


def test_schemas_cannot_vary_and_be_shared(run, tmp_path):
    with pytest.raises(spider.UserError, match="--vary_schema gives each question a schema of its own"):
        run(llama_65b, "--vary_schema", "0.4", "--share_schema")
    # nor where a checkpoint keeps its choice
    folder = tmp_path / "best"
    folder.mkdir()
    base = dict(model="none", tiny=True, random_weights=False, seed=0, values=False, share_schema=True)
    seal(folder, dict(script="llama_65b", base=base, state={}))
    with pytest.raises(spider.UserError, match="--vary_schema gives each question a schema of its own"):
        run(llama_65b, "--vary_schema", "0.4", "--model", str(folder))
    with pytest.raises(spider.UserError, match="--vary_schema 1.0 is out of range: give 0 or more and less than 1"):
        run(llama_65b, "--vary_schema", "1")


def test_a_name_of_several_words_is_needed_where_all_of_them_are_named():
    example = replace(EXAMPLE, sql='SELECT count(*) FROM Animals WHERE "cage id" = 3', values=())
    for seed in range(30):
        assert {"Animals.cage id"} <= names(varied(example, SCHEMA, 0.9, random.Random(seed))[1])
