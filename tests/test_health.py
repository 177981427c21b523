"""What makes models train smoothly and answer badly is said before the first update: each fault, put back into a script."""

import importlib
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_prompt import make_schema
from tokenizers.processors import TemplateProcessing

from data.answers.score import read_run
from data.benchmark import sample, spider
from data.benchmark.schema import Benchmark, Example
from data.common.errors import UserError
from data.run.options import check_options
from data.training.batches import GROUP_SIZE
from data.training.health import batch_warnings, example_warnings, first_loss, learned, token_warnings
from data.training.variation import vary

CAUSAL = ["gpt_neox_20b", "llama_65b"]
SCRIPTS = ["T5_3B", "flan_t5_base", *CAUSAL]


@pytest.fixture(params=SCRIPTS)
def script(request):
    return importlib.import_module(request.param)


@pytest.fixture(params=CAUSAL)
def causal(request):
    return importlib.import_module(request.param)


@pytest.fixture(scope="module")
def benchmark():
    return spider.load(sample.build())


@pytest.fixture
def warnings(benchmark, monkeypatch):
    """`warnings(script)`: what its health check says of the sample as it is then encoded and put together.

    `share`: with shared schemas, for the scripts that have them; `asked`: another benchmark than the sample as it stands.
    """

    def look(script, limit: int = 4096, share: bool = False, asked: Benchmark = benchmark) -> str:
        args = script.Args(tiny=True)
        tokenizer = script.load_tokenizer(args, asked)
        few = asked.splits["train"][::40]
        columns = {name: [getattr(e, name) for e in few] for name in ("question", "db_id", "values", "sql")}
        how = dict(share=True) if share else {}
        train = script.Dataset.from_dict(columns | script.encode(columns, asked.schemas, tokenizer, limit, **how))
        joined = hasattr(script, "CUE")
        ending = script.CUE.strip() if joined else "]"
        return "\n".join(example_warnings(train, tokenizer, ending, script.collate, joined))

    return look


def test_a_sound_script_has_nothing_to_say(script, warnings):
    assert warnings(script) == ""


def test_nor_has_one_with_its_defaults(script, warnings):
    """Values, full names, varied schemas that questions share."""
    args, share = script.Args(), hasattr(script.Args, "share_schema")
    asked = spider.load(sample.build(), values=args.values, full_names=args.full_names, plain_sql=args.plain_sql)
    asked = vary(asked, args.vary_schema, 1, 0, GROUP_SIZE if share else 1)
    assert warnings(script, share=share, asked=asked) == ""


def changed(script, monkeypatch, change) -> None:
    """Have `change(columns)` alter what `encode` gives back."""
    real = script.encode
    monkeypatch.setattr(script, "encode", lambda *arguments, **how: change(real(*arguments, **how)))


def test_labels_without_an_end_of_sequence(script, warnings, monkeypatch):
    changed(script, monkeypatch, lambda columns: columns | dict(labels=[ids[:-1] for ids in columns["labels"]]))
    assert "labels lack the end of sequence: answers will not end" in warnings(script)


def test_prompts_whose_end_is_cut_off(script, warnings, monkeypatch):
    changed(script, monkeypatch, lambda columns: columns | dict(input_ids=[ids[:16] for ids in columns["input_ids"]]))
    assert "something cuts their end, where the keys and the cue stand" in warnings(script)


@pytest.mark.parametrize("name", ["T5_3B", "flan_t5_base"])
def test_prompts_that_are_cut_at_a_bracket(name, warnings, monkeypatch):
    """Each line of a schema ends as T5's prompt does."""
    script = importlib.import_module(name)
    real = script.encode

    def cut(rows, schemas, tokenizer, limit):
        columns = real(rows, schemas, tokenizer, limit)
        ends = [[i for i, piece in enumerate(tokenizer.convert_ids_to_tokens(ids)) if piece.endswith("]")] for ids in
                columns["input_ids"]]  # fmt: skip
        return columns | dict(input_ids=[ids[: end[0] + 1] for ids, end in zip(columns["input_ids"], ends)])

    monkeypatch.setattr(script, "encode", cut)
    assert "prompts lack their keys: something cuts their end" in warnings(script)


def test_padding_that_counts_in_the_loss(script, warnings, monkeypatch):
    real = script.collate
    monkeypatch.setattr(script, "collate", lambda *a: (batch := real(*a)) | dict(labels=batch["labels"].clamp(min=0)))
    assert 'the loss says "predict padding"' in warnings(script)


def test_a_prompt_that_counts_in_the_loss(causal, warnings, monkeypatch):
    real = causal.collate
    monkeypatch.setattr(causal, "collate", lambda *a: (batch := real(*a)) | dict(labels=batch["input_ids"]))
    assert "learns the prompt; both are -100 in labels" in warnings(causal)


def test_sql_laid_over_the_positions_of_the_prompt(causal, warnings, monkeypatch):
    def laid_over(rows, pad):
        ids, labels = ([row[name] for row in rows] for name in ("input_ids", "labels"))
        wide = max(map(len, ids + labels))
        return dict(
            input_ids=torch.tensor([each + [pad] * (wide - len(each)) for each in ids]),
            labels=torch.tensor([each + [-100] * (wide - len(each)) for each in labels]),
        )

    monkeypatch.setattr(causal, "collate", laid_over)
    assert "prompt and SQL are one sequence, the prompt masked" in warnings(causal)


@pytest.mark.parametrize("name", ["T5_3B", "flan_t5_base"])
def test_a_vocabulary_that_lacks_characters(name, warnings, monkeypatch):
    script = importlib.import_module(name)
    monkeypatch.setattr(script, "PIECES", [])
    said = warnings(script)
    assert "tokens in SQL are unknown to the vocabulary, and are never written" in said
    assert "labels do not read as their SQL: example" in said and "<" in said


def test_labels_that_are_cut(script, warnings, monkeypatch):
    changed(script, monkeypatch, lambda columns: columns | dict(labels=[[*ids[:5], ids[-1]] for ids in columns["labels"]]))
    assert "labels do not read as their SQL" in warnings(script)


def test_schemas_that_are_shortened(script, warnings):
    assert "prompts lost schema that their SQL may need: raise --max_input_tokens" in warnings(script, limit=20)


@pytest.mark.parametrize("question", ["有多少订单?", "Сколько заказов?"])
def test_prompts_that_the_vocabulary_cannot_write(script, benchmark, warnings, question):
    args, few = script.Args(tiny=True), benchmark.splits["train"][::400]
    tokenizer = script.load_tokenizer(args, benchmark)
    asked = [question if i % 2 else example.question for i, example in enumerate(few)]
    columns = {name: [getattr(e, name) for e in few] for name in ("db_id", "values", "sql")} | dict(question=asked)
    encoded = script.encode(columns, benchmark.schemas, tokenizer, 4096)
    lacking = sum(ids.count(tokenizer.unk_token_id) for ids in encoded["input_ids"])
    said = token_warnings(columns | encoded, tokenizer, "", hasattr(script, "CUE"))
    what = f"{lacking:,} tokens in {len(few) // 2:,} of {len(few):,} prompts are unknown to the vocabulary, and all read alike"
    assert lacking and said == [f"{what}: take a model that knows the script"]


@pytest.mark.parametrize("form", ["<s> $A </s>", "$A </s>", "<s> </s> $A"])
@pytest.mark.parametrize("share", [False, True])
def test_a_tokenizer_that_ends_prompts_by_itself(benchmark, form, share):
    script = importlib.import_module("llama_65b")
    tokenizer = script.load_tokenizer(script.Args(tiny=True), benchmark)
    few = benchmark.splits["train"][::400]
    columns = {name: [getattr(e, name) for e in few] for name in ("question", "db_id", "values", "sql")}
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    for post, warned in ((form, True), ("<s> $A", False)):
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=post, special_tokens=special)
        encoded = script.encode(columns, benchmark.schemas, tokenizer, 4096, share)
        train = script.Dataset.from_dict(columns | encoded)
        said = example_warnings(train, tokenizer, "SQL:", script.collate, True)
        assert [f"{len(few)} of {len(few)} prompts hold an end of sequence" in each for each in said] == [True] * warned


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_small_tokenizer_of_anyones_data_has_nothing_to_say(name):
    """Questions and names without most letters, and more characters than a small vocabulary has pieces."""
    script = importlib.import_module(name)
    schema = make_schema({"客户": ["名称", "城市"]}, [1], [])
    letters = [chr(0x4E00 + i) for i in range(6000)]
    for questions in (["有多少客户?"] * 20, ["".join(letters[i : i + 30]) for i in range(0, 6000, 30)]):
        sql = [f"SELECT 名称 FROM 客户 WHERE 城市 = '{question[:2]}'" for question in questions]
        examples = [Example(i, "shop", *pair) for i, pair in enumerate(zip(questions, sql))]
        own = Benchmark(Path(), {"shop": schema}, dict(train=examples, dev=examples), {})
        tokenizer = script.load_tokenizer(script.Args(tiny=True), own)
        columns = {each: [getattr(e, each) for e in examples] for each in ("question", "db_id", "values", "sql")}
        encoded = script.encode(columns, own.schemas, tokenizer, 4096)
        ending, joined = (script.CUE.strip(), True) if hasattr(script, "CUE") else ("]", False)
        said = token_warnings(columns | encoded, tokenizer, ending, joined)
        assert len(tokenizer) <= script.TINY_CONFIG["vocab_size"] and not any("do not end with" in each for each in said)
        assert said == [] or len(questions) > 20


def test_labels_that_are_masked_with_the_padding():
    rows = [dict(input_ids=[5, 6], labels=[7, 2])]
    batch = dict(input_ids=[[5, 6, 7, 2]], labels=[[-100, -100, 7, -100]])  # the end of sequence taken for padding
    (said,) = batch_warnings(batch, rows, dict(input_ids=[[5, 6]], attention_mask=[[1, 1]]))
    assert said == "1 label tokens count in a batch that has 2 of SQL: labels are cut or masked"


# --------------------------------------------------------------------------------------------------------- first loss


@pytest.mark.parametrize(
    ("loss", "pretrained", "says"),
    [
        (2.1, True, None),
        (5.0, True, None),
        (13.4, True, "labels, weights and tokenizer do not belong together"),
        (0.01, True, "the model has learned these examples, or finds the answers in its input"),
        (10.8, False, None),
        (12.1, False, None),
        (4.0, False, "labels or the output layer are wrong"),
        (277.0, False, "labels or the output layer are wrong"),
    ],
)
def test_a_first_loss_against_a_guess(loss, pretrained, says):
    line, warnings = first_loss(loss, 49_152, pretrained)
    assert line == f"the first loss is {loss:.2f}; a guess among 49,152 tokens costs {math.log(49_152):.2f}"
    assert [says in warning for warning in warnings] == ([True] if says else [])


# --------------------------------------------------------------------------------------------------------------- runs


@pytest.fixture
def few(monkeypatch) -> list[str]:
    """Options of a short run, on a little of the sample: the whole takes longer to encode than to train on."""
    real = spider.load

    def load(*directory, **options) -> Benchmark:
        benchmark = real(*directory, **options)
        return replace(benchmark, splits={split: examples[:200] for split, examples in benchmark.splits.items()})

    monkeypatch.setattr(spider, "load", load)
    return ["--max_updates", "1", "--eval_every", "0", "--eval_examples", "2", "--max_output_tokens", "8"]


@pytest.mark.parametrize("recipe", [[], ["--published", "--max_input_tokens", "64"]], ids=["default", "published"])
def test_a_run_says_what_it_looked_at_and_keeps_its_warnings(run, script, few, capsys, recipe):
    shares = not recipe and hasattr(script.Args, "share_schema")
    done = run(script, *few, *recipe, *(["--share_schema"] if shares else []))
    printed = capsys.readouterr().out
    assert "200 training examples, 0 with a shortened schema" in printed and "WARNING:" not in printed
    saved = re.search(r" \| an epoch: ([0-9,]+) tokens, ([0-9,]+) if schemas were not shared", printed)
    assert bool(saved) == shares
    if shares:
        shared, whole = (int(number.replace(",", "")) for number in saved.groups())
        assert 0 < shared < whole
    assert f"the first loss is {done['losses'][0]:.2f}; a guess among 2,048 tokens costs 7.62" in printed
    assert [record["warnings"] for record in done["log"] if record["event"] == "health"] == [[], []]


def test_a_warning_is_printed_and_kept(run, script, few, capsys, monkeypatch):
    monkeypatch.setattr(script.TrainingData, "health", lambda *seen, **how: ("all", ["something is off"]))
    done = run(script, *few)
    assert "WARNING: something is off\n" in capsys.readouterr().out
    assert dict(event="health", update=0, warnings=["something is off"]) in done["log"]


def test_answers_that_the_grammar_forbids_are_said_before_training(run, script, capsys, monkeypatch):
    """Every fourth is a common table expression; with --no-constrained, or where few are, there is nothing to say."""
    real, every = spider.load, [4]

    def load(*directory, **options) -> Benchmark:
        benchmark = real(*directory, **options)
        few = [replace(e, sql=f"WITH a AS ({e.sql}) SELECT * FROM a" if e.index % every[0] == 1 else e.sql)
               for e in benchmark.splits["train"][:200]]  # fmt: skip
        return replace(benchmark, splits=dict(train=few, dev=few))

    monkeypatch.setattr(spider, "load", load)
    options = ["--max_updates", "1", "--eval_every", "0", "--eval_examples", "2", "--max_output_tokens", "8"]
    said = "50 of 200 training answers are outside the grammar that answers are held to, as >>> WITH a AS ("
    done = run(script, *options)
    assert f"WARNING: {said}" in capsys.readouterr().out
    assert [said in warning for record in done["log"] for warning in record.get("warnings", ())] == [True]
    run(script, *options, "--no-constrained")
    assert "outside the grammar" not in capsys.readouterr().out
    every[0] = 150
    run(script, *options)
    assert "outside the grammar" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("script", ["flan_t5_base", "llama_65b"], indirect=True)
def test_a_pipeline_that_learns_says_so(run, script, capsys):
    done = run(script, "--overfit", "32")
    assert "the pipeline can learn: " in capsys.readouterr().out
    assert done["result"]["n"] == 32 and done["result"]["execution_accuracy"] >= 0.9
    benchmark, examples, rows, _ = read_run(done["folder"], None)
    assert examples == benchmark.splits["dev"] == spider.load(sample.build(), overfit=32).splits["train"]
    assert [row["gold"] for row in rows] == [example.sql for example in examples]


def test_such_a_run_has_nothing_to_go_on_from():
    with pytest.raises(UserError, match="--overfit keeps no checkpoint to go on from: start it without --resume"):
        check_options(dict(tiny=True, random_weights=False, overfit=32, resume=True))


def test_an_evaluation_is_not_resumed():
    with pytest.raises(UserError, match="--eval_only scores a model and trains nothing that could be resumed"):
        check_options(dict(tiny=True, random_weights=False, eval_only=True, resume=True))


def test_what_the_end_of_such_a_run_says():
    assert learned(29, 32, 0.05, 0) == "the pipeline can learn: 29 of the 32 examples are answered right, loss 0.050"
    assert "does NOT learn: 3 of the 32" in learned(3, 32, 0.01, 0) and "not what was learned" in learned(3, 32, 0.01, 0)
    assert "train longer (--max_updates)" in learned(3, 32, 2.0, 0)


def test_it_blames_the_grammar_for_answers_that_the_grammar_forbids():
    outside = "of them are outside the grammar that answers are held to (--no-constrained answers freely)"
    assert learned(30, 32, 0.05, 2).endswith(f"30 of the 32 examples are answered right, loss 0.050; 2 {outside}")
    assert learned(12, 32, 0.01, 20).endswith(
        f"does NOT learn: 12 of the 32 examples are answered right, loss 0.010; 20 {outside}"
    )
    assert f"; 2 {outside}; the loss is low" in learned(12, 32, 0.01, 2)
    assert f"; 20 {outside}; the loss is still high" in learned(12, 32, 1.0, 20)


def test_the_examples_to_learn_are_those_to_answer(benchmark):
    few = spider.load(sample.build(), overfit=5)
    assert few.splits["train"] == few.splits["dev"] and [e.index for e in few.splits["dev"]] == list(range(5))
    whole = benchmark.splits["train"]
    assert [e.sql for e in few.splits["dev"]] == [whole[i * len(whole) // 5].sql for i in range(5)]
    for example in few.splits["dev"]:
        assert few.databases(example.db_id, "dev") == benchmark.databases(example.db_id, "train")
    assert spider.load(sample.build(), overfit=10**6).splits["train"] == whole
