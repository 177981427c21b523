"""What all four scripts do alike beside learning: records, trackers, questions, and the work that an update is."""

import csv
import importlib
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from conftest import records
from datasets import Dataset
from peft.tuners.trainable_tokens import TrainableTokensLayer
from safetensors.torch import load_file

from data.benchmark import sample, spider
from data.benchmark.schema import Benchmark
from data.common.errors import UserError, exit_on_user_error
from data.run.signals import Stop
from data.sqlite.execute import GOLD_FAILS, TOO_LONG
from data.with_torch import answering
from data.with_torch.back_translation import MARGIN

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ["T5_3B", "flan_t5_base", "gpt_neox_20b", "llama_65b"]
FEW = ["--update_examples", "4", "--eval_every", "2", "--eval_examples", "4", "--max_output_tokens", "8"]
FEW += ["--max_updates", "3"]
LOAD = spider.load


# what the scripts do alike is tested of all four, of two among the tests that are not slow
TWO = pytest.mark.parametrize(
    "script", [SCRIPTS[0], SCRIPTS[3], *(pytest.param(name, marks=pytest.mark.slow) for name in SCRIPTS[1:3])], indirect=True
)


@pytest.fixture(params=SCRIPTS)
def script(request):
    return importlib.import_module(request.param)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A little of the sample, since the whole takes longer to encode than to train on."""

    def load(*directory, **options) -> Benchmark:
        benchmark = LOAD(*directory, **options)
        return replace(benchmark, splits={split: examples[:96] for split, examples in benchmark.splits.items()})

    monkeypatch.setattr(spider, "load", load)


@pytest.fixture
def database():
    return str(sample.build() / "database" / "lighthouses" / "lighthouses.sqlite")


def test_a_run_shows_itself_and_answers_questions(run, script, database, capsys):
    """One run, as it takes seconds: its pictures, its page, its row, its tracker, and questions to it."""
    done = run(script, *FEW, "--report_to", "tensorboard")
    printed = capsys.readouterr().out
    names = {path.name for path in done["folder"].iterdir()}
    assert {"curves.png", "report.html"} <= names and not [name for name in names if name.endswith((".tmp", ".old"))]
    row = next(line for line in printed.splitlines() if line.startswith(f"| {script.SCRIPT} | "))
    assert f"| {done['result']['trainable_parameters']:,} of {done['result']['parameters']:,} |" in row
    page = (done["folder"] / "report.html").read_text()
    assert json.dumps(done["predictions"][0]["question"])[1:-1] in page
    update = next(record for record in done["log"] if record["event"] == "update")
    assert {"loss", "learning_rate", "seconds", "tokens", "memory_gib"} <= set(update)
    assert done["result"]["utilisation"] is None  # a CPU's peak is not in the table
    assert tracked(done["folder"]) == done["losses"]
    asked = ["--model", str(done["folder"]), "--db", database, "--max_output_tokens", "8"]
    assert run(script, *asked, "--ask", "How many lighthouses are there?", out="other") == {}
    answered = capsys.readouterr().out
    with pytest.raises(UserError, match="the question takes .* tokens, over --max_input_tokens 64: shorten it"):
        run(script, *asked, "--ask", "why " * 200, "--max_input_tokens", "64", out="other")
    questions = done["folder"].with_name("questions.jsonl")
    texts = ("How many lighthouses are there?", "why " * 5000, "Which?")
    questions.write_text("".join(json.dumps(dict(question=text)) + "\n" for text in texts))
    run(script, *asked, "--ask", str(questions), "--answers", str(questions.with_name("a.csv")), out="other")
    with questions.with_name("a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["question"] for row in rows] == [text.strip() for text in texts]
    assert re.match("the question takes .* tokens, over --max_input_tokens", rows[1]["error"]) and not rows[1]["sql"]
    assert all(row["sql"] or row["error"] == "the model wrote no SQL" for row in rows[::2])
    assert (rows[0]["sql"] or rows[0]["error"]) in answered.splitlines()  # asked alone it is answered likewise
    assert not (done["folder"].parent / "other").exists()


def test_answers_come_from_attention_that_repeats_itself(script, monkeypatch):
    seen = []

    def gather(answers: list) -> list:
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return answers

    monkeypatch.setattr(answering, "gather_object", gather)
    nothing = Dataset.from_dict(dict(input_ids=[], labels=[], shared=[], db_id=[]))
    tokenizer = SimpleNamespace(eos_token_id=1, pad_token_id=0, batch_decode=lambda ids, **how: [])
    one = SimpleNamespace(process_index=0, num_processes=1, is_main_process=True)
    assert script.generate(None, tokenizer, nothing, {}, script.Args(), one, Stop()) == []
    assert seen == [False] and torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize(("name", "judged"), [("T5_3B", ()), ("gpt_neox_20b", ("--back_translation",))])
def test_beams_write_an_answer_to_each_question(run, name, judged):
    script = importlib.import_module(name)
    done = run(script, *FEW, "--max_updates", "1", "--eval_every", "0", "--num_beams", "2", *judged)
    assert len(done["predictions"]) == 4
    several = [row for row in done["predictions"] if "candidates" in row]
    assert several and all(len(row["candidates"]) == 2 for row in several)
    assert all(row["predicted"] == row["candidates"][row["chosen"]]["sql"] for row in several)
    for first, second in (row["candidates"] for row in several):
        near = second["score"] >= first["score"] - MARGIN
        assert ("question_score" in first, "question_score" in second) == (bool(judged), bool(judged) and near)
    ranks = [[(each["ended"], each["score"]) for each in row["candidates"]] for row in several]
    assert all(first >= second for first, second in ranks)  # what was cut off stands behind what ended


@pytest.mark.parametrize("name", ["gpt_neox_20b", "llama_65b"])
def test_an_evaluation_without_the_adapter_changes_nothing_of_the_training(run, name):
    script = importlib.import_module(name)
    words = (*FEW, "--max_updates", "3", "--eval_every", "1", "--num_beams", "2", "--max_output_tokens", "8")
    losses = [run(script, *words, *judged, out=f"run{len(judged)}")["losses"] for judged in ((), ("--back_translation",))]
    assert losses[0] == losses[1] and len(losses[0]) == 3


@pytest.mark.parametrize("name", SCRIPTS[1:])
def test_trained_rows_are_put_among_the_others_without_the_cpu(name, monkeypatch):
    """A CUDA graph captures no copy of their numbers from there."""
    script = importlib.import_module(name)
    args = replace(script.Args(), **script.TINY, tiny=True)
    base = dict(model="none", tiny=True, random_weights=False, seed=0, base_16bit=False)
    tokenizer = script.load_tokenizer(args, spider.load(sample.build()))
    config = script.load_config(base) if name == "flan_t5_base" else script.load_config(args, base)
    model = script.load_model(args, base, config, tokenizer, torch.device("cpu"))
    layers = [module for module in model.modules() if isinstance(module, TrainableTokensLayer)]
    assert layers
    for layer in layers:
        with torch.no_grad():
            layer.trainable_tokens_delta["default"].add_(1)
    expected = [TrainableTokensLayer.get_merged_weights(layer, layer.active_adapters) for layer in layers]
    monkeypatch.setattr(torch, "tensor", lambda *given, **how: pytest.fail("made from a list"))
    found = [layer.get_merged_weights(layer.active_adapters) for layer in layers]
    for one, other, layer in zip(expected, found, layers, strict=True):
        assert torch.equal(one, other) and not torch.equal(one, layer.get_base_layer().weight)
        other.sum().backward()
        assert layer.trainable_tokens_delta["default"].grad.abs().sum() > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_replayed_steps_give_the_same_answers_each_time(run, script):
    options = [*FEW, "--max_output_tokens", "40", "--eval_examples", "24", "--eval_batch_size", "6"]
    done = run(script, *options, "--max_updates", "60", "--eval_every", "0", "--update_examples", "16")
    again = ["--eval_only", "--model", f"{done['folder']}/last"]
    one, other = (run(script, *options, *again, out=name)["predictions"] for name in ("one", "other"))
    assert [row["predicted"] for row in one] == [row["predicted"] for row in other]


def tracked(folder) -> dict:
    """The losses in TensorBoard's files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for path in folder.rglob("events.out.tfevents*"):
        events = EventAccumulator(str(path)).Reload()
        if "update/loss" in events.Tags()["scalars"]:
            found |= {event.step: pytest.approx(event.value, rel=1e-6) for event in events.Scalars("update/loss")}
    return found


@pytest.mark.parametrize("published", [False, True], ids=["default", "published"])
def test_a_run_keeps_how_its_prompts_were_made(run, script, database, monkeypatch, capsys, published):
    """Prompts that lack what a model was trained with, or have more, would score it low and say nothing."""
    default = ["--share_schema"] if hasattr(script.Args, "share_schema") else []
    trained, asked = (default, ["--published"])[:: -1 if published else 1]
    done = run(script, *FEW, *trained)
    capsys.readouterr()
    seen, real = [], script.evaluate

    def evaluate(model, tokenizer, benchmark, dev, *rest):
        seen.append("".join(tokenizer.decode(dev[0]["input_ids"]).split()))
        return real(model, tokenizer, benchmark, dev, *rest)

    monkeypatch.setattr(script, "evaluate", evaluate)
    model = [*asked, "--model", str(done["folder"]), "--max_output_tokens", "8"]
    again = run(script, *model, "--eval_only", "--eval_examples", "4", out="again")
    flags = {"values", "full_names", "plain_sql", "share_schema"} & set(vars(script.Args()))
    said = capsys.readouterr().out
    for flag in flags:
        assert f"best was trained with{'out' if published else ''} --{flag}, and stays so\n" in said
    for name in {"prompt", "question_first", "schema_first"} & set(vars(script)):
        first = getattr(script, name)
        monkeypatch.setattr(script, name, lambda *given, first=first: seen.append("".join(first(*given))) or first(*given))
    place = sample_value()
    run(script, *model, "--db", database, "--ask", f"How many lighthouses are in {place}?", out="other")
    scored, answered = seen[0], "".join(seen[-1].split())
    names = r"Table(\w+),columns=\[\*,\w+[,\]]" if published else r"Table(\w+),columns=\[\*,\1\.\w+(\(.*\))?,"
    assert re.search(names, scored) and re.search(names, answered)
    assert (f"('{''.join(place.split())}')" in answered) != published
    shared = "share_schema" in flags and not published
    assert (
        answered.startswith("db_id:") == shared and (scored.index("db_id:") < scored.index("Table")) and again["losses"] == {}
    )


def sample_value() -> str:
    """A text cell of the lighthouses."""
    examples = LOAD(sample.build(), splits=("dev", "train"), values=True).splits
    found = [value for split in examples.values() for e in split if e.db_id == "lighthouses" for value in e.values]
    return found[0]["text"]


def test_random_weights_answer_nothing(run, script, database):
    with pytest.raises(UserError, match="random weights know no answers: train first, or name a run with --model"):
        run(script, "--ask", "How many?", "--db", database)


def test_a_run_without_a_best_checkpoint_is_not_asked(run, script, database):
    with pytest.raises(UserError, match="run has no best checkpoint: name another run, a checkpoint or a model with --model"):
        run(script, "--ask", "How many?", "--db", database, tiny=False)


def test_a_database_that_cannot_be_read_is_refused_before_a_model_is_loaded(run, script, tmp_path):
    with pytest.raises(UserError, match="none.sqlite is missing"):
        run(script, "--ask", "How many?", "--db", str(tmp_path / "none.sqlite"))


def test_a_token_costs_what_the_weights_that_it_passes_cost(script):
    """Against the operations that PyTorch counts in a forward pass: training costs three times those, or twice without the
    gradient of a frozen base (https://arxiv.org/abs/2001.08361, section 2.1)."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    causal = script.SCRIPT in ("gpt_neox_20b", "llama_65b")
    auto = AutoModelForCausalLM if causal else AutoModelForSeq2SeqLM
    model = auto.from_config(script.Config(**script.TINY_CONFIG), dtype=torch.float32)
    prompt, answer = 40, 20
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        if causal:
            hidden = model.base_model(input_ids=torch.ones(1, prompt + answer, dtype=torch.long)).last_hidden_state
            model.get_output_embeddings()(hidden[:, prompt:])
        else:
            model(input_ids=torch.ones(1, prompt, dtype=torch.long), labels=torch.ones(1, answer, dtype=torch.long))
    full = script.SCRIPT == "T5_3B"
    per_prompt, per_answer = script.flops_per_token(model if full else Based(model))
    forward = (per_prompt * prompt + per_answer * answer) / (3 if full else 2)
    assert forward == pytest.approx(counter.get_total_flops(), rel=0.15)  # attention scores, keys of the other stack


@pytest.fixture
def own(tmp_path):
    """`own(split, **change)`: a directory with that split alone, four questions of the sample, of the last with a change."""

    def make(split: str, **change: str) -> str:
        folder = tmp_path / "own"
        folder.mkdir()
        for name in ("tables.json", "database"):
            (folder / name).symlink_to(sample.build() / name)
        few = json.loads((sample.build() / "dev.json").read_text())[:4]
        (folder / f"{split}.json").write_text(json.dumps([*few[:3], few[3] | change]))
        return str(folder)

    return make


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_split_alone_can_be_scored(run, script, own, split):
    """With a question that is too long among its: it is not asked, and counts as wrong."""
    data = own(split, question="why " * 3000)
    done = run(script, "--eval_only", "--data", data, "--split", split, "--max_output_tokens", "8")
    record = json.loads((done["folder"] / "args.json").read_text())
    assert record["data"]["examples"] == {split: 4} and done["result"]["n"] == 4
    assert [row["error"] == TOO_LONG for row in done["predictions"]] == [False, False, False, True]
    row = done["predictions"][3]
    assert (row["predicted"], row["execution_match"], row["exact_match"], row["cut"]) == ("", False, False, False)
    assert re.match("the question takes [0-9,]+ tokens, over --max_input_tokens [0-9,]+: shorten it", row["message"])
    again = [sys.executable, "-m", "data.score", str(done["folder"])]
    assert subprocess.run(again, cwd=ROOT, capture_output=True, text=True, timeout=60).returncode == 0
    assert records(done["folder"])["predictions"][3]["message"] == row["message"]


def test_a_question_that_is_too_long_is_not_trained_on(run, script, own, capsys):
    data = Path(own("train", question="why " * 20_000))
    (data / "dev.json").write_text((data / "train.json").read_text())
    began = time.monotonic()
    done = run(script, "--data", str(data), "--max_updates", "2", "--update_examples", "3", "--max_output_tokens", "8")
    assert time.monotonic() - began < 60 and done["result"]["n"] == 4
    said = capsys.readouterr().out
    assert "3 training examples, " in said and re.search(
        "WARNING: 1 of 4 questions are .*: they are left out of training", said
    )
    assert re.search("WARNING: 1 of 4 questions are .*: they are not asked, and count as wrong", said)


def test_a_slow_gold_may_have_its_time(run, own):
    script = importlib.import_module("flan_t5_base")
    slow = "WITH RECURSIVE a(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM a LIMIT 1000000) SELECT max(x) FROM a"
    options = ["--eval_only", "--data", own("dev", query=slow), "--max_output_tokens", "8"]
    errors = [run(script, *options, "--seconds", limit, out=limit)["predictions"][3]["error"] for limit in ("0.05", "60")]
    assert errors[0] == GOLD_FAILS != errors[1]


class Based(torch.nn.Module):
    """A model as PEFT holds it."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def get_base_model(self):
        return self.base


@TWO
def test_a_resumed_run_refuses_to_become_another(run, script):
    options = [*FEW, "--save_every", "1"]
    run(script, *options)
    with pytest.raises(UserError, match="would go on as another run .seed 0 -> 5.: .* or --force"):
        run(script, *options, "--seed", "5", "--resume")
    longer = run(script, *options, "--max_updates", "5", "--resume")
    assert sorted(longer["losses"]) == list(range(5))


@pytest.mark.parametrize("more", [[], ["--eval_only"], ["--ask", "How many?", "--db", "shop.sqlite"]])
def test_tiny_takes_no_other_model_for_a_run(run, script, more, tmp_path):
    """It would train or score fresh random weights under the name of that run."""
    with pytest.raises(UserError, match="--model .*nowhere is no run or checkpoint, and --tiny makes its own model"):
        run(script, "--model", str(tmp_path / "nowhere"), *more)


@TWO
def test_an_evaluation_that_fails_costs_no_update(run, script, monkeypatch, tmp_path):
    """A package that only an evaluation imports may be broken, days after the start."""
    options = [*FEW, "--eval_every", "0", "--save_every", "0"]

    def fail(*given, **more):
        raise ImportError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(script, "generate", fail)
        with pytest.raises(ImportError, match="broken"):
            run(script, *options)
    monkeypatch.setattr(script, "optimise", fail)  # from here on no update is made
    done = run(script, *options, "--resume")
    assert sorted(done["losses"]) == [0, 1, 2] and done["result"]["updates"] == 3
    state = json.loads((done["folder"] / "last" / "checkpoint.json").read_text())["state"]
    assert (state["evaluated"], state["best"]) == (3, done["result"]["execution_accuracy"])


def test_processes_have_time_while_one_of_their_host_tokenises(run, script, monkeypatch):
    """Longer than NCCL's ten minutes; and hosts may have caches of their own."""
    made = []

    class Recorded(Accelerator):
        def __init__(self, **how):
            made.append(how)
            super().__init__(**how)

        def main_process_first(self):
            pytest.fail("the first of another host, too, waits for the first of all")

        def local_main_process_first(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(script, "Accelerator", Recorded)
    with pytest.raises(KeyboardInterrupt):
        run(script, *FEW)
    (handler,) = made[0]["kwargs_handlers"]
    assert handler.to_kwargs() == dict(timeout=timedelta(hours=6))


@TWO
def test_a_gradient_that_is_not_finite_stops_the_run_and_spoils_no_checkpoint(run, script, monkeypatch, tmp_path):
    """The loss before the step is still finite, and a checkpoint would follow it."""
    options = [*FEW, "--eval_every", "0", "--save_every", "1"]
    real, made = script.optimise, []

    def optimise(accelerator, *given):
        made.append(None)
        if len(made) == 2:
            backward = accelerator.backward
            with monkeypatch.context() as patch:
                patch.setattr(accelerator, "backward", lambda loss: backward(loss * float("nan")))
                return real(accelerator, *given)
        return real(accelerator, *given)

    monkeypatch.setattr(script, "optimise", optimise)
    with pytest.raises(UserError, match="the gradient's norm is nan at update 1, .*--resume from .*run/last"):
        run(script, *options)
    last = tmp_path / "run" / "last"
    assert json.loads((last / "checkpoint.json").read_text())["state"]["update"] == 1
    tensors = load_file(next(last.glob("*.safetensors")))
    assert tensors and all(tensor.isfinite().all() for tensor in tensors.values())
    monkeypatch.setattr(script, "optimise", real)
    assert sorted(run(script, *options, "--resume")["losses"]) == [0, 1, 2]


@TWO
def test_weights_that_are_not_finite_are_said_at_the_first_update(run, script, monkeypatch):
    real = script.load_model

    def load_model(*given):
        model = real(*given)
        next(weight for weight in model.parameters() if weight.dim() == 1).data[0] = float("nan")  # a norm's
        return model

    monkeypatch.setattr(script, "load_model", load_model)
    with pytest.raises(UserError, match="the loss is nan at the first update, .*: name other weights with --model"):
        run(script, *FEW, "--eval_every", "0")


LATE = """
import importlib, sys
script = importlib.import_module(sys.argv[1])
del sys.argv[0]
real, before = script.optimise, {}
def optimise(*given):
    before.update(before or sys.modules)
    return real(*given)
script.optimise = optimise
script.main()
print(*sorted({name.split(".")[0] for name in sys.modules} - {name.split(".")[0] for name in before}))
"""


@TWO
def test_what_a_run_needs_at_its_end_is_imported_at_its_start(script, small_sample, tmp_path):
    """But for the pictures, without which it ends, too."""
    words = [sys.executable, "-c", LATE, script.SCRIPT, "--tiny", "--data", str(small_sample), "--out", str(tmp_path / "run")]
    done = subprocess.run([*words, *FEW, "--eval_every", "0"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    late = {*done.stdout.splitlines()[-1].split()} - sys.stdlib_module_names
    assert late <= {"matplotlib", "mpl_toolkits", "cycler", "fontTools", "kiwisolver", "pyparsing", "dateutil"}


def test_a_trial_leaves_its_result_and_no_checkpoint(run, script):
    """45 GB of T5-3B's random weights and moments are worth nothing."""
    done = run(script, *FEW, "--save_every", "-1")
    assert done["result"]["updates"] == 3
    assert not [name for name in ("last", "best") if (done["folder"] / name).exists()]


@TWO
def test_a_checkpoint_with_half_a_file_is_named(run, script):
    folder = run(script, *FEW)["folder"]
    victim = max((path for path in (folder / "last").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:100])
    before = records(folder)
    with pytest.raises(UserError, match=f"{victim.name} has 100 bytes where [0-9,]+ were saved"):
        run(script, *FEW, "--resume")
    assert records(folder) == before


def test_a_checkpoint_holds_all_that_was_trained(run, script, monkeypatch):
    """As seen in its weights: a model that has learned little predicts the same with some of them missing."""
    seen, real = [], script.evaluate

    def evaluate(model, *arguments):
        seen.append({name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad})
        return real(model, *arguments)

    monkeypatch.setattr(script, "evaluate", evaluate)
    done = run(script, *FEW, "--eval_every", "0")
    again = run(script, *FEW, "--eval_only", "--model", str(done["folder"]), out="again")
    assert again["result"]["trainable_parameters"] == done["result"]["trainable_parameters"]
    trained, loaded = seen
    assert trained.keys() == loaded.keys()
    # T5-3B is saved in bf16
    exact = dict(rtol=0, atol=0) if script.SCRIPT != "T5_3B" else dict(rtol=2**-8, atol=0)
    for name, weight in trained.items():
        torch.testing.assert_close(loaded[name], weight, **exact)


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        (["--grad_accum", "2"], "--grad_accum is gone: --update_examples gives an update's size"),
        (["--no-compile"], "--no-compile is gone: --compile off"),
        (["--no-gradient_checkpointing"], "--no-gradient_checkpointing is gone: --gradient_checkpointing off"),
        (["--cuda_graphs"], "--cuda_graphs is gone: answers are replayed where there is a GPU"),
    ],
)
def test_an_option_that_is_gone_ends_in_a_line_that_names_another(script, monkeypatch, capsys, words, instead):
    monkeypatch.setattr(sys, "argv", [script.__file__, "--tiny", *words])
    with pytest.raises(SystemExit) as caught:
        exit_on_user_error(script.main)
    (said,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and said.startswith(f"error: {instead}")


def test_the_published_recipe_changes_defaults_and_says_which(script, monkeypatch, capsys):
    def parsed(*words: str) -> tuple:
        monkeypatch.setattr(sys, "argv", [script.__file__, *words])
        return script.parse(), capsys.readouterr().out.splitlines()

    usual = script.Args()
    assert parsed() == (usual, [])
    args, (said,) = parsed("--published")
    assert args == replace(usual, published=True, **script.PUBLISHED)
    shown = [f"{name} {value} (default: {getattr(usual, name)})" for name, value in script.PUBLISHED.items()]
    assert said == f"the published recipe: {', '.join(shown)}"
    changed, (again, own) = parsed("--published", "--values", "--eval_batch_size", "7", "--epochs", "2")
    assert changed == replace(args, values=True, eval_batch_size=7, epochs=2)
    assert again == said and own == "changed by the command line: values True, eval_batch_size 7"
    both, _ = parsed("--tiny", "--published")
    assert both == replace(usual, tiny=True, published=True, **(script.TINY | script.PUBLISHED))


def test_what_they_are_compared_with_has_the_published_batches(script, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "bench"))
    table, stock = importlib.import_module("table"), importlib.import_module("stock")
    args, run = stock.options_of(script, smoke=False), table.PUBLISHED[script.SCRIPT]
    assert (args.batch_size, args.eval_batch_size, args.values) == (run.batch, run.eval_batch, False)
