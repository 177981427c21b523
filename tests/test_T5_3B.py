"""T5_3B.py on the CPU, and what it says to a DeepSpeed configuration; test_zero2.py starts the launcher."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import records
from transformers import AutoModelForSeq2SeqLM, T5Config

import T5_3B as script
from data.benchmark import sample, spider
from data.common.errors import UserError
from data.with_torch import search, zero2

ROOT = Path(__file__).resolve().parent.parent
FEW = ("--eval_examples", "6", "--eval_every", "0", "--update_examples", "8")
pytestmark = pytest.mark.usefixtures("little")


def test_all_weights_of_the_published_model_train():
    model = script.skeleton(T5Config(**script.CONFIG))
    counts = script.count_parameters(model)
    assert counts["parameters"] == counts["trainable_parameters"] == 2_851_598_336
    assert counts["trainable_percent"] == counts["trainable_percent_packed"] == 100


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_two_updates_and_two_more_equal_four(two_and_two, optimizer):
    straight, resumed = two_and_two(script, *FEW, "--optimizer", optimizer)
    assert resumed["losses"] == straight["losses"]
    assert [row["predicted"] for row in resumed["predictions"]] == [row["predicted"] for row in straight["predictions"]]


def small() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A random model and a batch of two prompts, of 31 and 50 tokens."""
    torch.manual_seed(0)
    rows = [dict(input_ids=[5] * 30 + [1], labels=[7, 8, 1]), dict(input_ids=list(range(3, 53)), labels=[9, 1])]
    return AutoModelForSeq2SeqLM.from_config(T5Config(**script.TINY_CONFIG)), script.collate(rows, 0)


def step(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients."""
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), [weight.grad.clone() for weight in model.parameters()]


def test_contiguous_biases_change_neither_loss_nor_gradient_and_lie_row_by_row():
    model, batch = small()
    attention = model.encoder.block[0].layer[0].SelfAttention
    assert not attention.compute_bias(7, 7).is_contiguous()  # else there is nothing to mend
    found = []
    for mend in (lambda model: None, script.contiguous_biases):
        mend(model)
        found.append(step(model, batch))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert (one - other).norm() <= 1e-5 * one.norm()
    with torch.autocast("cpu", torch.bfloat16):
        for mend in (lambda attention: vars(attention).pop("compute_bias"), lambda attention: script.contiguous_biases(model)):
            mend(attention)
            found.append(step(model, batch))
    for one, other in zip(found[2][1], found[3][1], strict=True):  # the bias's own gradient is summed in bf16, too
        assert (one - other).norm() <= 0.02 * one.norm()
    assert attention.compute_bias(7, 7).is_contiguous() and attention.compute_bias(7, 7).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert attention.compute_bias(7, 7).dtype == torch.bfloat16


def test_a_loaded_model_has_contiguous_biases():
    args = replace(script.Args(), **script.TINY, tiny=True)
    benchmark = spider.load(sample.build())
    base = dict(model="none", tiny=True, random_weights=False, seed=0)
    tokenizer = script.load_tokenizer(args, benchmark)
    model = script.load_model(args, base, script.load_config(base), tokenizer, torch.device("cpu"))
    for stack in (model.encoder, model.decoder):
        assert stack.block[0].layer[0].SelfAttention.compute_bias(7, 7).is_contiguous()


@torch.inference_mode()
def test_steps_pass_by_the_hooks_of_the_whole_model():
    """DeepSpeed's waits for the GPU, which no CUDA graph captures."""
    model = script.random_model(T5Config(**script.TINY_CONFIG), 0, torch.device("cpu")).eval()
    model.register_forward_pre_hook(lambda *given: pytest.fail("called"))
    rows = [dict(input_ids=[5, 6, 1], labels=[1], schema=None)]
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=1)
    args = replace(script.Args(), max_output_tokens=4)
    (written,) = script.write(model, rows, args, tokenizer, None, torch.device("cpu"))
    assert len(written) == args.num_beams and len(written[0][0]) <= 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("beams", [1, 4])
def test_replayed_steps_write_what_launched_ones_do(beams, monkeypatch):
    model = script.random_model(T5Config(**script.TINY_CONFIG), 0, torch.device("cuda")).eval()
    torch.manual_seed(1)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(2048, 128, device="cuda"))
    ids = [torch.randint(5, 2000, (length,)).tolist() + [1] for length in (30, 50, 7, 80)]
    rows = [dict(input_ids=each, labels=[1], schema=None) for each in ids]
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=1)
    args = replace(script.Args(), num_beams=beams, max_output_tokens=20)
    with torch.inference_mode():
        replayed = script.write(model, rows, args, tokenizer, None, torch.device("cuda"))
        monkeypatch.setattr(search, "Replayed", lambda run: run)
        assert script.write(model, rows, args, tokenizer, None, torch.device("cuda")) == replayed


def test_on_a_gpu_prompts_are_filled_up_for_the_attention(monkeypatch):
    rows = [dict(input_ids=[5] * 30 + [1], labels=[7, 8, 1]), dict(input_ids=[5] * 33, labels=[9, 1])]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    batch = script.collate(rows, 0)
    shapes = {name: tuple(tensor.shape) for name, tensor in batch.items()}
    assert shapes == dict(input_ids=(2, 48), attention_mask=(2, 48), labels=(2, 3))
    assert batch["attention_mask"].sum(1).tolist() == [31, 33] and not batch["input_ids"][:, 33:].any()


def test_a_checkpoint_is_a_model_in_bf16_that_can_be_scored(run):
    done = run(script, *FEW, "--max_updates", "2")
    model = AutoModelForSeq2SeqLM.from_pretrained(done["folder"] / "best")
    assert model.dtype == torch.bfloat16 and model.lm_head.weight is model.shared.weight
    again = run(script, *FEW, "--eval_only", "--model", str(done["folder"]), out="again")
    assert again["result"]["n"] == 6 and again["result"]["updates"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fp16": {"enabled": True}, "bf16": {"enabled": False}}, "enables fp16, in which T5 overflows: enable bf16 instead"),
        ({"zero_optimization": {"stage": 3}}, "has the ZeRO stage 3"),
        ({"train_micro_batch_size_per_gpu": 7}, "train_micro_batch_size_per_gpu is 7, and the options make it 2"),
        ({"train_batch_size": 5}, "train_batch_size is 5, and the options make it 2"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps is 4, and the options make it 1"),
        ({"scheduler": {"type": "WarmupLR"}}, "has a scheduler"),
    ],
)
def test_a_configuration_that_breaks_the_promise_is_refused(tmp_path, change, message):
    config = json.loads((ROOT / "ds_config_zero2.json").read_text()) | change
    (tmp_path / "ds.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        zero2.configuration(tmp_path / "ds.json", 2, script.SCRIPT)


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_configuration_that_is_missing_or_malformed_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "ds.json").write_text(text)
    with pytest.raises(UserError, match="ds.json"):
        zero2.configuration(tmp_path / "ds.json", 2, script.SCRIPT)


@pytest.mark.parametrize(("examples", "ranks", "each"), [(36, 1, 36), (36, 4, 9), (128, 8, 16), (10, 4, 2)])
def test_sizes_that_the_configuration_leaves_open_are_those_of_an_update(monkeypatch, examples, ranks, each):
    """Whatever its forward passes, an update is one step to DeepSpeed: gradients are neither summed nor divided by it."""
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    config = zero2.configuration(ROOT / "ds_config_zero2.json", examples, script.SCRIPT)
    assert (config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]) == (each, 1)
    assert config["train_batch_size"] == each * ranks and config["gradient_clipping"] == 1.0


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ([], 1),
        (["--local_rank=0"], 2),
        (["--local_rank=0", "--batch_size", "1"], 1),
        (["--local_rank=0", "--deepspeed", "none"], 1),
        (["--batch_size", "3"], 3),
    ],
)
def test_the_published_recipe_has_two_examples_a_pass_under_the_launcher(monkeypatch, options, size):
    monkeypatch.setattr(sys, "argv", [script.__file__, "--published", *options])
    args = script.parse()
    assert args.batch_size == size and args.update_examples == 16 and not args.full_names


@pytest.mark.parametrize(
    ("options", "size"), [(["--local_rank=0"], 2), (["--local_rank=0", "--deepspeed", "none"], None), ([], None)]
)
def test_the_launcher_is_recognised_and_can_be_declined(run, monkeypatch, options, size):
    given = []
    monkeypatch.setattr(script, "train", lambda *everything: given.append(everything[-1]))
    run(script, "--update_examples", "2", *options)
    assert [config and config["train_batch_size"] for config in given] == [size]


def test_deepspeed_need_not_be_installed(tmp_path, small_sample):
    words = ["T5_3B.py", "--tiny", "--data", str(small_sample), *FEW, "--max_updates", "1", "--max_output_tokens", "8"]
    code = f"""
import importlib.util, runpy, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *given: None if name.split(".")[0] == "deepspeed" else find(name, *given)
sys.modules["deepspeed"], sys.argv = None, {[*words, "--out", str(tmp_path / "run")]}
runpy.run_path("T5_3B.py", run_name="__main__")
"""
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=hidden)
    assert done.returncode == 0, done.stdout + done.stderr
    assert records(tmp_path / "run")["result"]["updates"] == 1


def test_a_launcher_without_deepspeed_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed.runtime.config", None)
    with pytest.raises(UserError, match="deepspeed cannot be imported .*: install it, or run python3 T5_3B.py without it"):
        zero2.configuration(ROOT / "ds_config_zero2.json", 2, script.SCRIPT)


def test_a_broken_deepspeed_is_said_before_training(monkeypatch):
    """transformers imports it to save a model."""

    def fail(name: str):
        raise RuntimeError("CUDA_HOME is not set")

    monkeypatch.setattr(zero2.importlib, "import_module", fail)
    with pytest.raises(UserError, match="deepspeed .* cannot be imported .CUDA_HOME is not set.* mend or uninstall it"):
        zero2.plugin(None)


@pytest.mark.slow
def test_the_small_model_learns_the_sample(tmp_path):
    words = [sys.executable, "T5_3B.py", "--tiny", "--epochs", "2", "--eval_every", "0", "--out", str(tmp_path / "run")]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=hidden, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    result = records(tmp_path / "run")["result"]
    assert result["n"] == 300 and result["execution_accuracy"] >= 0.35
