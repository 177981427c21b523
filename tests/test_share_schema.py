"""Questions that share their schema learn and are learned from as if each stood alone."""

import random
import re
import statistics
from collections import Counter
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch.nn.attention import flex_attention

import gpt_neox_20b
import llama_65b
from data.answers import candidates
from data.benchmark import sample, spider
from data.benchmark.prompt import CUE, question_first, schema_first
from data.run.signals import Stop
from data.training import batches
from data.training.batches import (
    ATTENTION,
    GROUP_SIZE,
    LONGEST,
    balanced,
    describe,
    epoch_updates,
    grouped,
    packed,
    packed_passes,
    shared_tokens,
)
from data.training.training_data import TrainingData
from data.with_torch import answering
from data.with_torch.memory import recompute

FEW = ["--share_schema", "--eval_examples", "4", "--eval_every", "0", "--max_output_tokens", "8", "--max_updates", "3"]


@pytest.fixture(params=[gpt_neox_20b, llama_65b], ids=["gpt_neox_20b", "llama_65b"], scope="module")
def script(request):
    return request.param


@pytest.fixture(scope="module")
def benchmark():
    return spider.load(sample.build(), values=True)


@pytest.fixture(scope="module")
def tokenizer(script, benchmark):
    return script.load_tokenizer(replace(script.Args(), **script.TINY, tiny=True), benchmark)


@pytest.fixture(scope="module")
def rows(script, tokenizer, benchmark) -> list[dict]:
    """Questions of several databases: of some many, of one a single one; one is shortened."""
    own: dict[str, list] = {}
    for example in benchmark.splits["train"]:
        own.setdefault(example.db_id, []).append(example)
    few = [example for number, examples in enumerate(own.values()) for example in examples[: (7, 1, 4)[number % 3]]]
    columns = {name: [getattr(e, name) for e in few] for name in ("question", "db_id", "values", "sql")}
    whole = script.encode(columns, benchmark.schemas, tokenizer, 4096, share=True)
    longest = max(map(len, whole["input_ids"]))
    encoded = script.encode(columns, benchmark.schemas, tokenizer, longest - 1, share=True)
    assert sum(encoded["shortened"]) >= 1
    rows = [dict(zip(encoded, each)) for each in zip(*encoded.values())]
    random.Random(0).shuffle(rows)
    return rows


@pytest.fixture(autouse=True)
def short_rows(monkeypatch):
    """Rows short enough for a batch of a few tokens to have several."""
    monkeypatch.setattr(batches, "ATTENTION", 1)


@pytest.fixture(scope="module")
def model(script, tokenizer):
    base = dict(model="none", tiny=True, random_weights=False, seed=0, base_16bit=False)
    args = replace(script.Args(), **script.TINY, tiny=True)
    model = script.load_model(args, base, script.load_config(args, base), tokenizer, torch.device("cpu")).train()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)  # else the other half of LoRA has no gradient
    return model


def learned(script, model, parts: list[list[dict]], blocks: bool = False) -> list:
    """The summed loss of examples in so many forward passes, and the gradient of each weight."""
    answer_loss, loss_sum = script.AnswerLoss(model, blocks), 0.0
    model.zero_grad()
    for part in parts:
        loss = answer_loss(**script.collate(part, 0, one_row=blocks))
        loss.backward()
        loss_sum += loss.item()
    return [loss_sum] + [weight.grad.clone() for weight in model.parameters() if weight.requires_grad]


@pytest.fixture(scope="module")
def alone(script, model, rows) -> list:
    return learned(script, model, [[row | dict(shared=0)] for row in rows])


def check_same(found: list, alone: list) -> None:
    assert found[0] == pytest.approx(alone[0], rel=1e-5)
    for mine, other in zip(found[1:], alone[1:], strict=True):
        assert (mine - other).norm() <= 1e-4 * other.norm()
        assert other.norm() > 0


def test_the_loss_and_its_gradient_are_those_of_each_question_alone(script, model, rows, alone):
    packs = script.collate(rows, 0)["input_ids"]
    assert 1 < len(packs) < len({tuple(row["input_ids"][: row["shared"]]) for row in rows}) < len(rows)
    check_same(learned(script, model, [rows]), alone)


@torch.compiler.set_stance("force_eager")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_loss_and_its_gradient_are_the_same_where_attention_leaves_out_blocks(script, model, rows, alone, monkeypatch):
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *given: None)  # it refuses gradients on a CPU
    check_same(learned(script, model, [rows], True), alone)
    check_same(learned(script, model, [rows[:9], rows[9:]], True), alone)
    layers, passed = model.get_base_model().base_model.layers, []
    hooks = [layer.register_forward_pre_hook(lambda *given: passed.append(given)) for layer in layers]
    recompute(layers, 0.5)
    check_same(learned(script, model, [rows], True), alone)
    recompute(layers, 0.0)
    assert len(passed) == 1.5 * len(layers)
    for hook in hooks:
        hook.remove()


@torch.compiler.set_stance("force_eager")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_a_run_in_blocks_has_passes_of_one_row_and_learns_as_one_without(script, run, monkeypatch):
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *given: None)
    usual, passes, real = run(script, *FEW, out="usual"), [], script.AnswerLoss.forward
    monkeypatch.setattr(script, "in_blocks", lambda *given: True)
    made: list[bool] = []
    monkeypatch.setattr(script, "TrainingData", lambda *a, **how: made.append(how["one_row"]) or TrainingData(*a, **how))
    monkeypatch.setattr(script.AnswerLoss, "forward", lambda self, **batch: passes.append((self, batch)) or real(self, **batch))
    done = run(script, *FEW, out="blocks")
    assert done["losses"] == pytest.approx(usual["losses"], rel=1e-4)
    assert made == [True]
    assert len(passes) == 3 and all(loss.blocks and len(batch["segments"]) == 1 for loss, batch in passes)


@pytest.mark.parametrize("one_row", [False, True], ids=["rows", "one row"])
def test_blocks_hold_all_that_is_visible_and_few_others(script, rows, one_row):
    segments = script.collate(rows, 0, one_row)["segments"]
    packs, width = segments.shape
    blocks, seen = script.mask_of(segments, torch.float32, blocks=True), script.visible(segments)
    count = -(-width // 128)
    padded = torch.nn.functional.pad(seen, (0, 128 * count - width) * 2)
    assert torch.equal(blocks.to_dense().bool(), padded.view(packs, 1, count, 128, count, 128).any(5).any(3))


@pytest.mark.parametrize("share", [True, False], ids=["shared", "not shared"])
@pytest.mark.parametrize("count", [2, 8])
def test_the_loss_and_its_gradient_are_the_same_however_an_update_is_cut(script, model, rows, alone, count, share):
    lengths = [len(row["input_ids"]) + len(row["labels"]) for row in rows]
    schemas = [(tuple(row["input_ids"][: row["shared"]]), row["shared"]) for row in rows]
    if not share:
        rows, schemas = [row | dict(shared=0) for row in rows], [(number, 0) for number in range(len(rows))]

    def cut(room: int) -> list[list[list[int]]]:
        return packed_passes(list(range(len(rows))), lengths, schemas, 1, room)

    passes = next(found for room in range(sum(lengths), max(lengths), -50) if len(found := cut(room)) == count)
    parts = [[rows[i] for i in batch] for (batch,) in passes]
    assert sum(map(len, parts)) == len(rows)
    check_same(learned(script, model, parts), alone)


def test_a_question_sees_its_schema_and_itself_and_nothing_else(script):
    rows = [
        dict(input_ids=[1, 2, 3, 4], labels=[5], shared=2),
        dict(input_ids=[1, 2, 6], labels=[7, 8], shared=2),
        dict(input_ids=[9, 3, 4, 6], labels=[5], shared=1),
    ]
    batch = script.collate(rows, 0)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8] + [0] * 8, [9, 3, 4, 6, 5] + [0] * 11]
    assert batch["labels"].tolist() == [[-100] * 4 + [5, -100, 7, 8] + [-100] * 8, [-100] * 4 + [5] + [-100] * 11]
    assert batch["position_ids"][0].tolist()[:8] == [0, 1, 2, 3, 4, 2, 3, 4]
    seen = script.visible(batch["segments"])
    assert seen.shape == (2, 1, 16, 16)
    pairs = {(q, k) for q, k in seen[0, 0, :8].nonzero().tolist()}
    assert pairs == {(q, k) for part in ((0, 1, 2, 3, 4), (0, 1, 5, 6, 7)) for q in part for k in part if k <= q}
    assert seen.any(-1).all()  # a position that saw nothing would be no number


def test_schemas_in_one_pack_do_not_see_each_other(script):
    rows = [dict(input_ids=[n] * 3, labels=[n], shared=2) for n in (1, 2)] + [dict(input_ids=[3] * 9, labels=[3], shared=2)]
    batch = script.collate(rows, 0)
    assert batch["input_ids"].tolist() == [[3] * 10 + [0] * 6, [1] * 4 + [2] * 4 + [0] * 8]
    assert batch["position_ids"][1].tolist()[:8] == [0, 1, 2, 3, 0, 1, 2, 3]
    seen = script.visible(batch["segments"])[1, 0]
    assert not seen[4:8, :4].any() and not seen[:4, 4:].any() and seen[7, 4:8].all()


@pytest.mark.parametrize("most", [1, 3, 8])
def test_packs_of_few_questions_repeat_their_schemas(script, rows, most):
    wide = [row | dict(labels=[], columns=50) for row in rows]
    batch, ends = script.packs_of(wide, 0, most)
    assert sorted(i for pack in ends for i, _ in pack) == list(range(len(rows))) and max(map(len, ends)) <= most
    seen = script.visible(batch["segments"])
    for pack, own in enumerate(ends):
        for i, last in own:
            assert batch["input_ids"][pack][seen[pack, 0, last]].tolist() == rows[i]["input_ids"]
    room = [len(batch["segments"][pack].unique()) for pack in range(len(ends))]
    assert max(room) <= 2 * min(room) + 2  # packs have about as many questions each


def test_packs_are_balanced_by_prompts_and_columns(script):
    """Eight questions take more than one whose prompt is as long as theirs together."""
    counts = (8, 8, 1)
    rows = [
        dict(input_ids=[schema] * length + [number], labels=[], shared=length, columns=64)
        for schema, (count, length) in enumerate(zip(counts, (290, 240, 500)), 1)
        for number in range(count)
    ]
    assert sorted(len(each) for each in script.packs_of(rows, 0, 16)[1]) == [1, 8, 8]
    few = [row | dict(columns=0) for row in rows]
    assert sorted(len(each) for each in script.packs_of(few, 0, 16)[1]) == [1, 16]


def test_rows_have_lengths_that_attention_takes(script):
    """Multiples of 16, as masks are to be aligned, but none of which cuDNN makes gradients that are no numbers."""
    for length in range(2, 300):
        row = dict(input_ids=[1] * length, labels=[1], shared=1)
        width = script.collate([row], 0)["input_ids"].shape[1]
        assert length < width <= length + 32 and width % 16 == 0 and width % 128 != 64
        assert script.collate([row], 0, one_row=True)["input_ids"].shape[1] == max(width, 128)


def test_what_is_generated_from_is_what_was_learned(script, tokenizer, rows, benchmark):
    for row in rows:
        batch = script.collate([row], -1)["input_ids"][0].tolist()
        assert [i for i in batch if i >= 0] == row["input_ids"] + row["labels"] and 0 < row["shared"] < len(row["input_ids"])
    example = benchmark.splits["dev"][0]
    schema, question = schema_first(example.question, benchmark.schemas[example.db_id], example.values)
    assert tokenizer.decode(rows[0]["input_ids"][: rows[0]["shared"]]).replace(" ", "").count("primarykey:[") == 1
    assert question.splitlines()[0] == example.question and schema.endswith("]\n") and example.question not in schema


def test_answers_of_questions_that_share_a_schema_are_those_of_each_alone(script, tokenizer, rows, monkeypatch):
    """Over several batches, in which columns are used again and questions asked again, and in any company."""
    base = dict(model="none", tiny=True, random_weights=False, seed=0, base_16bit=False)
    args = replace(script.Args(), **script.TINY, tiny=True)
    args = replace(args, max_output_tokens=20, eval_batch_size=12)
    monkeypatch.setattr(answering, "COLUMNS", 7)
    torch.manual_seed(0)
    model = script.load_model(args, base, script.load_config(args, base), tokenizer, torch.device("cpu")).eval()
    shuffle = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "trainable_tokens" in name:  # the output layer is the embeddings: all answers would repeat the cue
            weight.data = weight.data[torch.randperm(len(weight), generator=shuffle)]
        elif "lora_B" in name:
            torch.nn.init.normal_(weight, std=1.0, generator=shuffle)  # and would depend on its last token alone
    alone = []
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        how = dict(max_new_tokens=20, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        alone.append(model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **how)[0, ids.shape[1] :].tolist())
    assert len(set(map(tuple, alone))) > len(rows) // 2
    # a token that ends about half of the answers
    pieces = {i for answer in alone for i in answer if i < len(tokenizer)}
    end = min(pieces, key=lambda i: abs(sum(i in answer for answer in alone) - len(rows) / 2))
    assert 1 < sum(end in answer for answer in alone) < len(rows)
    tokenizer = deepcopy(tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    tokenizer.batch_decode = lambda answers, **how: [" ".join(map(str, answer)) for answer in answers]
    monkeypatch.setattr(candidates, "clean_sql", lambda text: text)
    asked = Dataset.from_list([row | dict(db_id="any") for row in rows])
    answers = script.generate(model, tokenizer, asked, dict(any=None), args, Accelerator(cpu=True), Stop())
    for row, (written,) in zip(rows, answers, strict=True):
        answer = [int(i) for i in written["sql"].split()]
        assert written["ended"] == (answer[-1] == end)
        assert end not in answer[:-1] and (answer[-1] == end or len(answer) == 20)
        with torch.inference_mode():
            logits = model(torch.tensor([row["input_ids"] + answer])).logits[0, len(row["input_ids"]) - 1 : -1]
        # the likeliest alone, too; where two are as likely, rounding decides
        assert (logits.amax(-1) - logits.gather(-1, torch.tensor(answer)[:, None])[:, 0] < 1e-3 * logits.std()).all()


def test_the_schema_is_the_same_with_and_without_values(benchmark):
    example = next(e for e in benchmark.splits["dev"] if e.values)
    schema = benchmark.schemas[example.db_id]
    text, question = schema_first(example.question, schema, example.values)
    assert text == schema_first("Another?", schema)[0]
    table, column = schema.columns[example.values[0]["column"]]
    assert f"values:[{schema.tables[table]}.{column} ( '{example.values[0]['text']}'" in question
    assert question_first(example.question, schema)[1].split("\n", 1)[1] + "\n" == text
    text, question = schema_first(example.question, replace(schema, full_names=True), example.values)
    assert f"values:[ {schema.tables[table]}.{column} ( '{example.values[0]['text']}'" in question
    assert f"Table {schema.tables[table]}, columns = [ * , {schema.tables[table]}." in text


def test_values_of_columns_that_are_left_out_leave_too(script, tokenizer, benchmark):
    few = [example for example in benchmark.splits["dev"] if example.values][:60]
    columns = {name: [getattr(e, name) for e in few] for name in ("question", "db_id", "values", "sql")}
    barest = script.encode(columns | dict(values=[()] * len(few)), benchmark.schemas, tokenizer, 1, share=True)
    cut = script.encode(columns, benchmark.schemas, tokenizer, 1, share=True)
    assert cut == barest and all(cut["shortened"])


# ---------------------------------------------------------------------------------------------------------------- order

SCHEMAS = [(name, 200 + ord(name)) for name in (random.Random(i).choice("aaaabbcdefghijklmnopqrstuvwxyz") for i in range(1000))]
LENGTHS = [tokens + 20 + i % 7 for i, (_, tokens) in enumerate(SCHEMAS)]


@pytest.mark.parametrize("size", [8, 36, 128, 1000, 3000])
def test_every_example_is_seen(size):
    updates = epoch_updates(LENGTHS, SCHEMAS, size, 0, 0)
    seen = Counter(i for update in updates for i in update)
    assert {len(update) for update in updates} == {size} and set(seen) == set(range(1000))


def test_an_update_holds_many_schemas_and_other_company_each_epoch():
    first, second = (epoch_updates(LENGTHS, SCHEMAS, 128, 0, epoch) for epoch in (0, 1))
    assert min(len({SCHEMAS[i] for i in update}) for update in first) >= 128 // GROUP_SIZE // 2
    assert first != second and first == epoch_updates(LENGTHS, SCHEMAS, 128, 0, 0)


@pytest.mark.parametrize(("room", "most", "ranks"), [(10**6, 0, 1), (4000, 0, 2), (2000, 16, 1), (1000, 4, 4), (10**6, 0, 8)])
def test_passes_divide_an_update_into_about_as_many_tokens(room, most, ranks):
    for update in epoch_updates(LENGTHS, SCHEMAS, 128, 0, 0):
        parts = [batch for each in packed_passes(update, LENGTHS, SCHEMAS, ranks, room, most) for batch in each]
        assert all(parts) and sorted(sum(parts, [])) == sorted(update)
        tokens = [sum(shared_tokens(batch, LENGTHS, SCHEMAS)) for batch in parts]
        # a few questions of one schema do not fill a pass as evenly
        assert max(tokens) <= (2 if most and most < GROUP_SIZE else 1.4) * sum(tokens) / len(tokens)


def test_what_is_heavy_is_spread():
    assert balanced([5, 9, 1, 4], 2) == [[1, 2], [0, 3]] and balanced([], 2) == [[], []] and balanced([3], 2) == [[0], []]


def test_rows_hold_everything_and_neither_pad_much_nor_attend_far(monkeypatch):
    monkeypatch.setattr(batches, "ATTENTION", ATTENTION)
    rng = random.Random(0)
    for _ in range(200):
        lengths = [rng.randint(1, 1000) for _ in range(rng.randint(1, 40))]
        rows = packed(lengths)
        assert sorted(i for row in rows for i in row) == list(range(len(lengths))) and all(rows)
        widest, whole = max(sum(lengths[i] for i in row) for row in rows), sum(lengths)
        assert len(rows) * widest <= 1.2 * whole and (len(rows) == 1 or widest < 4096)
    assert packed([6000, 5, 5]) == [[0, 1, 2]]  # short ones are not padded to a long one
    assert packed([2000] * 4) == [[0], [1], [2], [3]]


def test_updates_and_their_batches_take_about_as_much_memory():
    """One schema is so long that few of its questions stand behind it; one is too long for any but one."""
    rng = random.Random(0)
    schemas = [
        (number, (LONGEST - 150, LONGEST + 9, 900, 300, 200, 100)[min(5, number)]) for number in rng.choices(range(9), k=2000)
    ]
    lengths = [tokens + rng.randint(20, 60) for _, tokens in schemas]
    updates = epoch_updates(lengths, schemas, 128, 0, 0)
    passes = [packed_passes(update, lengths, schemas, 8, 10**6) for update in updates]
    tokens = [[sum(shared_tokens(batch, lengths, schemas)) for (each,) in [own] for batch in each] for own in passes]
    assert max(map(max, tokens)) <= 2 * statistics.fmean(map(statistics.fmean, tokens))
    assert max(map(sum, tokens)) <= 1.2 * min(map(sum, tokens))


@pytest.mark.parametrize("size", [64, 126])
def test_no_update_needs_much_more_memory_than_others(size):
    """Schemas and questions as long and as many as Spider's; the two that need most come first."""
    rng = random.Random(0)
    long = [int(min(1700, 60 + rng.expovariate(1 / 320))) for _ in range(140)]
    schemas = [(number, long[number]) for number in (rng.randrange(140) for _ in range(7000))]
    lengths = [tokens + rng.randint(30, 90) for _, tokens in schemas]
    for epoch in range(2):
        found = epoch_updates(lengths, schemas, size, 0, epoch)
        tokens = [sum(shared_tokens(update, lengths, schemas)) for update in found]
        assert max(tokens) <= 1.1 * statistics.fmean(tokens)
        assert epoch or tokens[:2] == sorted(tokens, reverse=True)[:2]


def test_a_schema_counts_once_a_batch():
    assert grouped([3, 0, 2, 1], "abab") == [[3, 1], [0, 2]]
    schemas = [("a", 5), ("a", 5), ("b", 6), ("c", 6)]
    assert shared_tokens([0, 1], [10, 11, 12, 13], schemas) == [16]
    assert shared_tokens([2, 3], [10, 11, 12, 13], schemas) == [12, 13]
    line = describe([10, 11, 12], [2, 2, 2], [("a", 8)] * 3, 3)
    assert line.endswith("longest 2 | an epoch: 23 tokens, 39 if schemas were not shared")


# ----------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize(
    "script", [llama_65b, pytest.param(gpt_neox_20b, marks=pytest.mark.slow)], ids=["llama_65b", "gpt_neox_20b"], indirect=True
)
def test_a_run_shares_and_what_loads_it_does_too(run, script, monkeypatch, capsys):
    done = run(script, *FEW)
    shared, alone = re.search(r"an epoch: ([0-9,]+) tokens, ([0-9,]+) if schemas", capsys.readouterr().out).groups()
    updates = [record["tokens"] for record in done["log"] if record["event"] == "update"]
    assert int(shared.replace(",", "")) < int(alone.replace(",", ""))
    # the mean of 1,000 updates, of which the two with most tokens come first
    assert updates[2] == pytest.approx(int(shared.replace(",", "")) / 1000, rel=0.2) and updates[2] <= min(updates[:2])
    plain = run(script, *FEW, "--no-share_schema", out="plain")
    assert "if schemas were not shared" not in capsys.readouterr().out
    seen, real = [], script.schema_first
    monkeypatch.setattr(script, "schema_first", lambda *asked: seen.append(real(*asked)) or seen[-1])
    database = str(sample.build() / "database" / "lighthouses" / "lighthouses.sqlite")
    again = ("--share_schema", "--model", str(done["folder"]), "--max_output_tokens", "8")
    run(script, *again, "--db", database, "--ask", "How many?", out="other")
    assert seen[-1][1] + CUE == "How many?\nSQL:"
    assert "stays so" not in capsys.readouterr().out
    # a checkpoint's choice wins over the command line's default
    asked = len(seen)
    run(script, *FEW, "--eval_only", "--model", str(plain["folder"]), out="other")
    assert len(seen) == asked and "was trained without --share_schema, and stays so" in capsys.readouterr().out


def test_a_run_learns_the_same_however_its_updates_are_cut(run, script):
    options = [*FEW, "--overfit", "32", "--vary_schema", "0"]  # short prompts: whole lines of schema are tokens
    whole = run(script, *options, out="whole")["losses"]
    for cut in (("--batch_tokens", "300"), ("--batch_size", "2")):
        assert run(script, *options, *cut, out="cut")["losses"] == pytest.approx(whole, rel=1e-4)


def test_recomputation_changes_no_loss(run, script):
    options = [*FEW[:-1], "2", "--overfit", "32"]
    kept, again = run(script, *options, out="kept"), run(script, *options, "--gradient_checkpointing", "on", out="again")
    assert again["losses"] == pytest.approx(kept["losses"], rel=1e-5)


@pytest.mark.slow
def test_two_processes_share_schemas_as_one_does(one_and_two, script):
    one, two = one_and_two(script, *FEW)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4) and two["predictions"] == one["predictions"]


@pytest.mark.slow
def test_two_updates_and_two_more_equal_four_where_schemas_are_shared(two_and_two, script):
    straight, resumed = two_and_two(script, *FEW)
    assert resumed["losses"] == straight["losses"]


@pytest.mark.parametrize("share", [True, False], ids=["shared", "alone"])
def test_a_pass_holds_no_more_than_it_may_with_its_padding_and_with_shortened_schemas(script, benchmark, tokenizer, share):
    """A schema that is shortened for one question is not that of the others beside it."""
    how = script.TINY | dict(tiny=True, max_input_tokens=300, vary_schema=0.4, update_examples=64, max_updates=12)
    args = replace(script.Args(), **how)
    data = TrainingData(benchmark, vars(args), script.encode, tokenizer, padded=False, share=share)
    assert 10 < sum(data.train["shortened"][:]) < len(data.train) - 10
    room, sizes = 3000, []
    for passes in data.passes(2, room, 0, 12):
        for batch in (batch for each in passes for batch in each):
            tensors = script.collate([data.train[i] for i in batch], tokenizer.pad_token_id)
            packs, width = tensors["input_ids"].shape
            assert (tensors["segments"] >= 0).sum() <= sum(data.tokens([[batch]]))
            assert packs * (width - 31) <= room  # widths are rounded up
            sizes.append(packs * width)
    assert max(sizes) > 0.8 * room
