"""flan_t5_base.py on the CPU: its tokens, its 4-bit model, its loop, its checkpoints, and what it says to bad input."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from conftest import files, records
from transformers import T5Config, T5ForConditionalGeneration

import flan_t5_base as script
from data.benchmark import sample, spider
from data.benchmark.prompt import target
from data.common.errors import UserError
from data.training import small_tokenizer

ROOT = Path(__file__).resolve().parent.parent
FEW = ("--eval_examples", "8", "--eval_every", "0", "--update_examples", "8")
TINY = replace(script.Args(), **script.TINY, tiny=True)
pytestmark = pytest.mark.usefixtures("little")


@pytest.fixture(scope="module")
def benchmark():
    return spider.load(sample.build())


@pytest.fixture(scope="module")
def tokenizer(benchmark):
    return script.load_tokenizer(TINY, benchmark)


@pytest.fixture
def model(tokenizer):
    base = dict(model="none", tiny=True, random_weights=False, seed=0)
    return script.load_model(TINY, base, script.load_config(base), tokenizer, torch.device("cpu"))


# ------------------------------------------------------------------------------------------------------------ tokens


@pytest.mark.parametrize("sql", ["x <= 3 and z<>5", "a<b", "a < b", "{x}", "`a b` ^ ~c", r"d \ e"])
def test_the_characters_that_t5_lacks_survive(tokenizer, sql):
    ids = tokenizer(sql).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == sql


def test_labels_are_the_sql_and_the_end_of_sequence(tokenizer, benchmark):
    examples = benchmark.splits["dev"]
    rows = {name: [getattr(e, name) for e in examples] for name in ("question", "db_id", "values", "sql")}
    encoded = script.encode(rows, benchmark.schemas, tokenizer, 512)
    for example, labels in zip(examples, encoded["labels"]):
        assert labels[-1] == tokenizer.eos_token_id and labels.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(labels[:-1]) == target(example.sql)


def test_a_prompt_that_is_too_long_keeps_its_question_and_its_end(benchmark, monkeypatch):
    monkeypatch.setattr(small_tokenizer, "LINES", "")
    monkeypatch.setattr(small_tokenizer, "WORDS", ".")  # a token a character
    tokenizer = script.load_tokenizer(TINY, benchmark)
    example = benchmark.splits["dev"][0]
    rows = dict(question=[example.question], db_id=[example.db_id], values=[()], sql=[example.sql])
    whole = script.encode(rows, benchmark.schemas, tokenizer, 4096)
    limit = len(whole["input_ids"][0]) - 20
    cut = script.encode(rows, benchmark.schemas, tokenizer, limit)
    text = tokenizer.decode(cut["input_ids"][0])
    assert (whole["shortened"], cut["shortened"]) == ([False], [True])
    assert len(cut["input_ids"][0]) <= limit
    assert text.startswith(example.question) and "primary key:[" in text and text.endswith("]</s>")


def test_padding_is_masked_by_length_even_where_pad_and_end_share_an_id():
    rows = [dict(input_ids=[5, 6, 1], labels=[7, 1]), dict(input_ids=[5, 1], labels=[1])]
    batch = script.collate(rows, pad=1)
    more = [0] * (batch["input_ids"].shape[1] - 3)  # on a GPU
    assert batch["attention_mask"].tolist() == [[1, 1, 1, *more], [1, 1, 0, *more]]
    assert batch["input_ids"].tolist() == [[5, 6, 1, *(1 for _ in more)], [5, 1, 1, *(1 for _ in more)]]
    assert batch["labels"].tolist() == [[7, 1], [1, -100]]


# ------------------------------------------------------------------------------------------------------------- model


def test_a_loaded_model_has_contiguous_biases(model):
    for stack in (model.get_base_model().encoder, model.get_base_model().decoder):
        assert stack.block[0].layer[0].SelfAttention.compute_bias(7, 7).is_contiguous()


def test_every_linear_layer_but_the_output_is_4_bit_with_lora_and_the_new_pieces_train(model, tokenizer):
    base = [path for path, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)]
    layers = {path.split(".base_layer")[0] for path in base if path.endswith("base_layer")}
    assert len(layers) == 2 * 7 + 2 * 11  # q k v o wi_0 wi_1 wo; the decoder attends twice
    assert all(isinstance(model.get_submodule(path).weight, bnb.nn.Params4bit) for path in base)
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert all("lora_" in name or "trainable_tokens" in name for name in trainable)
    assert any("lm_head" in name for name in trainable) and any("embed_tokens" in name for name in trainable)


def test_the_published_share_of_trainable_weights():
    """flan-t5-base with LoRA of rank 350: half of the stored weights, in the real configuration."""
    config = T5Config(**script.CONFIG)
    model = script.skeleton(config)
    linear = [m for m in model.modules() if isinstance(m, bnb.nn.Linear4bit)]
    lora = sum(350 * (m.in_features + m.out_features) for m in linear)
    total = sum(weight.numel() for weight in model.parameters())
    assert lora == 148_377_600
    assert total == 247_577_856  # google/flan-t5-base as published, its output layer a matrix of its own
    packed = lora + total - sum(m.weight.numel() for m in linear) // 2
    assert 100 * lora / packed == pytest.approx(50.0, abs=0.05)


def test_the_count_of_parameters_agrees_with_the_layers(model):
    counts = script.count_parameters(model)
    linear = [m for m in model.modules() if isinstance(m, bnb.nn.Linear4bit)]
    real = sum(m.in_features * m.out_features for m in linear)
    others = sum(w.numel() for w in model.parameters() if not isinstance(w, bnb.nn.Params4bit))
    assert counts["parameters"] == real + others
    assert counts["trainable_parameters"] == sum(w.numel() for w in model.parameters() if w.requires_grad)
    assert counts["trainable_percent_packed"] == pytest.approx(100 * counts["trainable_parameters"] / (real / 2 + others))


def test_the_4_bit_feed_forward_layer_gets_its_activations_whole(model):
    """T5 casts what enters `wo` to the type that its weight is stored in, which must not be whole numbers."""
    block = model.base_model.model.encoder.block[0].layer[1].DenseReluDense
    seen = []
    hook = block.wo.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    block(torch.randn(2, 5, 128))
    hook.remove()
    assert seen[0].dtype == torch.float32 and (seen[0] != seen[0].round()).any()


def test_a_checkpoint_of_flan_shape_loads_with_its_own_output_layer(tmp_path, tokenizer, benchmark):
    """transformers ties T5's output layer in a fresh model; a checkpoint that has one of its own must keep it."""
    config = T5Config(**script.TINY_CONFIG)
    original = T5ForConditionalGeneration(config)
    original.lm_head.weight = torch.nn.Parameter(torch.randn_like(original.lm_head.weight))
    original.all_tied_weights_keys.pop("lm_head.weight", None)
    original.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    args = replace(TINY, tiny=False, model=str(tmp_path / "model"))
    base = dict(model=args.model, tiny=False, random_weights=False, seed=0)
    reloaded = script.load_tokenizer(args, benchmark)
    assert reloaded.get_vocab() == tokenizer.get_vocab()
    model = script.load_model(args, base, script.load_config(base), reloaded, torch.device("cpu")).base_model.model
    untouched = [i for i in range(1000) if i not in tokenizer.convert_tokens_to_ids(script.PIECES)]
    head = model.lm_head.token_adapter.base_layer.weight
    assert torch.equal(head[untouched], original.lm_head.weight[untouched])
    assert not torch.equal(head[untouched], model.shared.weight[untouched])
    assert isinstance(model.encoder.block[0].layer[1].DenseReluDense.wo.base_layer, bnb.nn.Linear4bit)


# -------------------------------------------------------------------------------------------------------------- loop


def test_a_run_leaves_its_whole_folder(run):
    done = run(script, *FEW, "--max_updates", "3")
    files = {path.name for path in done["folder"].iterdir()}
    written = {"args.json", "log.jsonl", "predictions.jsonl", "predicted.sql", "gold.sql", "result.json"}
    assert files == written | {"last", "best", "curves.png", "report.html"}
    assert done["result"]["updates"] == 3 and done["result"]["examples_seen"] == 24 and done["result"]["n"] == 8
    assert len({row["index"] for row in done["predictions"]}) == len(done["predictions"]) == 8
    assert done["result"]["train_tokens_per_second"] > 0 and done["result"]["peak_memory_gib"] > 0


def test_training_after_evaluations_equals_training_alone(run):
    """On some CPUs bitsandbytes repacks a weight in its first evaluation, and the base passes no gradient after it."""
    alone = run(script, *FEW, "--max_updates", "4", out="alone")
    between = run(script, *FEW, "--max_updates", "4", "--eval_every", "1", out="between")
    assert alone["losses"] == between["losses"]


def test_the_4_bit_layers_are_kept_from_repacking(model):
    layers = [m for m in model.modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert layers and not any(m.support_avx512bf16_for_cpu for m in layers)


def test_two_updates_and_two_more_equal_four(two_and_two):
    straight, resumed = two_and_two(script, *FEW, "--lora_dropout", "0.3")  # its random numbers go on, too
    assert resumed["losses"] == straight["losses"]
    assert [row["predicted"] for row in resumed["predictions"]] == [row["predicted"] for row in straight["predictions"]]
    for count in ("updates", "examples_seen"):
        assert resumed["result"][count] == straight["result"][count]


def test_an_update_has_the_same_loss_however_it_is_cut(run, monkeypatch):
    real, sizes = script.answer_loss, []
    monkeypatch.setattr(
        script, "answer_loss", lambda model, **batch: sizes.append(len(batch["labels"])) or real(model, **batch)
    )
    options = (*FEW, "--vary_schema", "0.4", "--max_updates", "3")
    one = run(script, *options, out="one")
    assert sizes == [8, 8, 8]
    for cut in (["--batch_size", "3"], ["--batch_tokens", "600"], ["--batch_size", "4", "--gradient_checkpointing", "on"]):
        sizes.clear()
        cut_up = run(script, *options, *cut, out="cut")
        assert sum(sizes) == 24 and len(sizes) >= 6 and ("--batch_size" not in cut or max(sizes) <= int(cut[1]))
        assert cut_up["losses"] == pytest.approx(one["losses"], rel=1e-4)


def test_a_checkpoint_scores_as_the_run_that_saved_it(run):
    done = run(script, *FEW, "--max_updates", "3")
    again = run(script, *FEW, "--eval_only", "--model", str(done["folder"] / "last"), out="again")
    assert [r["predicted"] for r in again["predictions"]] == [r["predicted"] for r in done["predictions"]]
    assert again["result"]["updates"] == 0


def test_an_evaluation_batch_that_does_not_fit_comes_again_in_smaller_ones(run, monkeypatch, capsys):
    real, sizes = script.write, []

    def write(model, rows, *given):
        sizes.append(len(rows))
        if len(rows) > 4:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(model, rows, *given)

    monkeypatch.setattr(script, "write", write)
    done = run(script, *FEW, "--eval_only", "--eval_batch_size", "8")
    assert sizes == [8, 7, 6, 5, 4, 4] and len(done["predictions"]) == 8
    assert "4 questions of up to" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_give_the_losses_and_predictions_of_one(one_and_two, small_sample):
    options = ("--data", str(small_sample), "--eval_examples", "9", "--eval_every", "0")
    options += ("--max_updates", "4", "--update_examples", "8")
    one, two = one_and_two(script, *options, cut=("--batch_size", "3"))
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert len(two["predictions"]) == 9 and two["predictions"] == one["predictions"]


def command(options: list[str], tiny: bool = True, code: int = 0) -> subprocess.CompletedProcess:
    words = [sys.executable, "flan_t5_base.py", *(["--tiny"] if tiny else []), *options]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=hidden, timeout=1800)
    assert done.returncode == code, done.stdout + done.stderr
    return done


# --------------------------------------------------------------------------------------------------------- bad input


def last_line(options: list[str], tiny: bool = True) -> str:
    lines = command(options, tiny, code=2).stderr.strip().splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1 and "Traceback" not in "\n".join(lines)
    return lines[-1]


def test_a_user_error_is_one_line_and_exit_code_2(tmp_path):
    assert last_line(["--data", str(tmp_path / "none")]).startswith(f"error: data directory {tmp_path / 'none'} does not exist")


def test_a_user_error_is_said_once_before_processes_start(tmp_path):
    assert "is out of range" in last_line(["--processes", "2", "--update_examples", "0"])


def test_a_hub_model_without_a_gpu_is_refused_before_anything_is_downloaded():
    line = last_line(["--data", "sample"], tiny=False)
    assert "no GPU is visible" in line and all(remedy in line for remedy in ("--model DIR", "--tiny", "--random_weights"))


def test_the_real_size_without_a_gpu_is_refused(run):
    with pytest.raises(UserError, match="no GPU is visible, and google/flan-t5-base is too large for a CPU"):
        run(script, "--random_weights", "--data", "sample", tiny=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "--epochs 0 is out of range"),
        (["--update_examples", "0"], "--update_examples 0 is out of range"),
        (["--grad_accum", "2"], "--grad_accum is gone: --update_examples gives an update's size"),
        (["--batch_tokens", "64"], "--batch_tokens 64 is less than the longest example's"),
        (["--warmup", "1.5"], "--warmup 1.5 is out of range"),
        (["--learning_rate", "nan"], "--learning_rate nan is out of range"),
        (["--lora_targets", "q,nothing"], "the model has k,o,q,v,wi_0,wi_1,wo, or all-linear"),
        (["--random_weights"], "two sizes of one model"),
        (["--resume"], "args.json is missing"),
    ],
)
def test_options_that_cannot_be_are_refused(run, options, message):
    with pytest.raises(UserError, match=message):
        run(script, *options)


@pytest.mark.parametrize("options", [["--lora_targets", "q,nothing"], ["--batch_tokens", "64"]])
def test_a_mistake_leaves_an_earlier_run_where_it_is(run, tmp_path, options):
    run(script, *FEW, "--max_updates", "1")
    before = files(tmp_path)
    with pytest.raises(UserError):
        run(script, *options)
    assert files(tmp_path) == before


def test_a_directory_of_another_architecture_is_refused(run, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2}))
    with pytest.raises(UserError, match="of the type llama: flan_t5_base.py trains t5"):
        run(script, "--model", str(tmp_path), "--data", "sample", tiny=False)


def test_a_configuration_that_contradicts_itself_is_refused(run, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8, "num_attention_heads": 3}))
    with pytest.raises(UserError, match="name a model's directory with --model DIR"):
        run(script, "--model", str(tmp_path), "--data", "sample", tiny=False)


def test_a_directory_without_a_model_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="neither found nor downloaded: name a model's directory with --model DIR"):
        run(script, "--model", str(tmp_path), "--data", "sample", tiny=False)


def test_a_checkpoint_made_with_tiny_says_so(run):
    done = run(script, *FEW, "--max_updates", "1")
    with pytest.raises(UserError, match="was trained with --tiny"):
        run(script, "--eval_only", "--model", str(done["folder"]), "--data", "sample", tiny=False, out="other")


@pytest.mark.slow
def test_the_small_model_learns_the_sample(tmp_path):
    """The README's first command; it takes about four minutes on two cores."""
    command(["--out", str(tmp_path / "run")])
    done = records(tmp_path / "run")
    first = next(record for record in done["log"] if record["event"] == "evaluation")
    assert first["execution_accuracy"] == 0 and first["update"] == 0
    assert done["result"]["n"] == 300 and done["result"]["execution_accuracy"] >= 0.5
