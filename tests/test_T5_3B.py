"""T5_3B.py on the CPU, and what it says to a DeepSpeed configuration; test_zero2.py starts the launcher."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import records
from transformers import Adafactor, AutoModelForSeq2SeqLM, T5Config

import T5_3B as script
from data import sample, spider
from data.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
FEW = ("--eval_examples", "6", "--eval_every", "0", "--batch_size", "8")
LAUNCHED = replace(script.Args(), local_rank=0, batch_size=2)


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


def test_lean_biases_change_neither_loss_nor_gradient_and_lie_row_by_row():
    model, batch = small()
    attention = model.encoder.block[0].layer[0].SelfAttention
    assert not attention.compute_bias(7, 7).is_contiguous()  # else there is nothing to mend
    found = []
    for mend in (lambda model: None, script.lean_biases):
        mend(model)
        found.append(step(model, batch))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert (one - other).norm() <= 1e-5 * one.norm()
    with torch.autocast("cpu", torch.bfloat16):
        for mend in (lambda attention: vars(attention).pop("compute_bias"), lambda attention: script.lean_biases(model)):
            mend(attention)
            found.append(step(model, batch))
    for one, other in zip(found[2][1], found[3][1], strict=True):  # the bias's own gradient is summed in bf16, too
        assert (one - other).norm() <= 0.02 * one.norm()
    assert attention.compute_bias(7, 7).is_contiguous() and attention.compute_bias(7, 7).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert attention.compute_bias(7, 7).dtype == torch.bfloat16


def test_a_loaded_model_has_lean_biases():
    args = replace(script.Args(), **script.TINY, tiny=True)
    benchmark = spider.load(sample.build())
    base = dict(model="none", tiny=True, random_weights=False, seed=0)
    tokenizer = script.load_tokenizer(args, benchmark)
    model = script.load_model(args, base, script.load_config(base), tokenizer, torch.device("cpu"))
    for stack in (model.encoder, model.decoder):
        assert stack.block[0].layer[0].SelfAttention.compute_bias(7, 7).is_contiguous()


def test_lean_adafactor_does_what_transformers_does_and_takes_up_its_state():
    how = dict(lr=1e-2, scale_parameter=False, relative_step=False, warmup_init=False)
    torch.manual_seed(0)
    weights = [torch.randn(40, 24), torch.randn(24), torch.randn(3, 70)]
    # the second step is clipped; the last row of the first weight never has a gradient
    gradients = [[torch.randn_like(weight) * size for weight in weights] for size in (1.0, 100.0, 1e-3, 1e-18)]
    for each in gradients:
        each[0][-1] = 0
    ends, states = [], []
    lean = partial(script.LeanAdafactor, capture=False)
    for kinds in ((Adafactor, Adafactor), (lean, lean), (Adafactor, lean), (lean, Adafactor)):
        own = [torch.nn.Parameter(weight.clone()) for weight in weights]
        first, then = (kind(own, **how) for kind in kinds)
        for number, each in enumerate(gradients):
            if number == 2:
                then.load_state_dict(first.state_dict())
            for weight, gradient in zip(own, each):
                weight.grad = gradient.clone()
            (then if number >= 2 else first).step()
        ends.append(own)
        states.append(then.state_dict()["state"])
    for end, state in zip(ends[1:], states[1:]):
        for one, other, start in zip(ends[0], end, weights, strict=True):
            assert (one - other).norm() <= 1e-5 * (one - start).norm()
        assert {key: set(kept) for key, kept in state.items()} == {key: set(kept) for key, kept in states[0].items()}
    assert all(torch.equal(each.grad, gradient) for each, gradient in zip(ends[1], gradients[-1]))


@torch.inference_mode()
def test_steps_pass_by_the_hooks_of_the_whole_model():
    """DeepSpeed's waits for the GPU, which no CUDA graph captures."""
    model = script.random_model(T5Config(**script.TINY_CONFIG), 0, torch.device("cpu")).eval()
    model.register_forward_pre_hook(lambda *given: pytest.fail("called"))
    rows = [dict(input_ids=[5, 6, 1], labels=[1], schema=None)]
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=1)
    args = replace(script.Args(), max_output_tokens=4)
    (written,) = script.write(model, rows, args, tokenizer, None, torch.device("cpu"))
    assert written.done and len(written.best(1)[0][0]) <= 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("beams", [1, 4])
def test_replayed_steps_write_what_launched_ones_do(beams):
    model = script.random_model(T5Config(**script.TINY_CONFIG), 0, torch.device("cuda")).eval()
    torch.manual_seed(1)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(2048, 128, device="cuda"))
    ids = [torch.randint(5, 2000, (length,)).tolist() + [1] for length in (30, 50, 7, 80)]
    rows = [dict(input_ids=each, labels=[1], schema=None) for each in ids]
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=1)
    args = replace(script.Args(), num_beams=beams, max_output_tokens=20)
    with torch.inference_mode():
        replayed, launched = (
            script.write(model, rows, replace(args, cuda_graphs=graphs), tokenizer, None, torch.device("cuda"))
            for graphs in (True, False)
        )
    assert replayed == launched


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_replayed_updates_are_those_of_launched_ones():
    torch.manual_seed(0)
    start = [torch.randn(40, 24, device="cuda"), torch.randn(24, device="cuda")]
    ends = []
    for capture in (True, False):
        weights = [torch.nn.Parameter(weight.clone()) for weight in start]
        optimizer = script.LeanAdafactor(weights, capture, scale_parameter=False, relative_step=False, warmup_init=False)
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        for step in range(5):
            optimizer.param_groups[0]["lr"] = 1e-2 / (step + 1)
            for weight in weights:
                weight.grad.copy_(torch.sin(step + torch.arange(weight.numel(), device="cuda")).view_as(weight))
            optimizer.step()
        ends.append(weights)
    for replayed, launched in zip(*ends, strict=True):
        assert torch.equal(replayed, launched)


def test_on_a_gpu_prompts_are_filled_up_for_the_attention(monkeypatch):
    rows = [dict(input_ids=[5] * 30 + [1], labels=[7, 8, 1]), dict(input_ids=[5] * 33, labels=[9, 1])]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    batch = script.collate(rows, 0)
    shapes = {name: tuple(tensor.shape) for name, tensor in batch.items()}
    assert shapes == dict(input_ids=(2, 48), attention_mask=(2, 48), labels=(2, 3))
    assert batch["attention_mask"].sum(1).tolist() == [31, 33] and not batch["input_ids"][:, 33:].any()


def test_what_graphs_fill_a_batch_with_changes_neither_loss_nor_gradient():
    """Batches take few shapes by padding, so that each shape's graph is soon captured."""
    model, batch = small()
    filled = script.Graphs.filled(batch)
    shapes = {name: tuple(tensor.shape) for name, tensor in filled.items()}
    assert shapes == dict(input_ids=(2, 128), attention_mask=(2, 128), labels=(2, 32))
    assert filled["attention_mask"].sum() == 81 and (filled["labels"] != -100).sum() == 5
    found = []
    for each in (batch, filled):
        found.append(step(model, each))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert (one - other).norm() <= 1e-4 * one.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_replayed_batches_learn_what_launched_ones_do(run):
    options = ("--max_updates", "12", "--batch_size", "4", "--eval_examples", "4", "--eval_every", "0", "--save_every", "-1")
    replayed, launched = (run(script, *options, f"--{no}cuda_graphs", out=f"{no}graphs") for no in ("", "no-"))
    assert replayed["losses"] == pytest.approx(launched["losses"], rel=5e-3)  # kernels round differently for other shapes


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
        ({"train_batch_size": 5}, "train_batch_size is 5"),
        ({"scheduler": {"type": "WarmupLR"}}, "has a scheduler"),
    ],
)
def test_a_configuration_that_breaks_the_promise_is_refused(tmp_path, change, message):
    config = json.loads((ROOT / "ds_config_zero2.json").read_text()) | change
    (tmp_path / "ds.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        script.zero2_config(replace(LAUNCHED, deepspeed=str(tmp_path / "ds.json")))


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_configuration_that_is_missing_or_malformed_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "ds.json").write_text(text)
    with pytest.raises(UserError, match="ds.json"):
        script.zero2_config(replace(LAUNCHED, deepspeed=str(tmp_path / "ds.json")))


def test_the_launcher_is_recognised_and_can_be_declined():
    assert script.zero2_config(LAUNCHED)["train_micro_batch_size_per_gpu"] == 2
    assert script.zero2_config(replace(LAUNCHED, deepspeed="none")) is None
    assert script.zero2_config(replace(LAUNCHED, local_rank=-1)) is None


def test_a_launcher_without_deepspeed_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed.runtime.config", None)
    with pytest.raises(UserError, match="deepspeed cannot be imported .*: install it, or run python3 T5_3B.py without it"):
        script.zero2_config(LAUNCHED)


@pytest.mark.slow
def test_the_small_model_learns_the_sample(tmp_path):
    words = [sys.executable, "T5_3B.py", "--tiny", "--out", str(tmp_path / "run")]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=hidden, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    result = records(tmp_path / "run")["result"]
    assert result["n"] == 300 and result["execution_accuracy"] >= 0.5
