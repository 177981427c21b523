"""gpt_neox_20b.py and llama_65b.py on the CPU: their tokens, their 4-bit models, their loop, and what they say to bad input."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from conftest import records
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModelForCausalLM

import gpt_neox_20b
import llama_65b
from data.answers import candidates
from data.benchmark import sample, spider
from data.benchmark.prompt import CUE, prompt, target
from data.common.errors import UserError
from data.run.signals import Stop
from data.training import small_tokenizer
from data.with_torch import quantised

ROOT = Path(__file__).resolve().parent.parent
FEW = ("--eval_examples", "6", "--eval_every", "0", "--update_examples", "8")
pytestmark = pytest.mark.usefixtures("little")


@pytest.fixture(params=[gpt_neox_20b, llama_65b], ids=["gpt_neox_20b", "llama_65b"], scope="module")
def script(request):
    return request.param


@pytest.fixture(scope="module")
def args(script):
    return replace(script.Args(), **script.TINY, tiny=True)


@pytest.fixture(scope="module")
def benchmark():
    return spider.load(sample.build())


@pytest.fixture(scope="module")
def tokenizer(script, args, benchmark):
    return script.load_tokenizer(args, benchmark)


@pytest.fixture
def model(script, args, tokenizer):
    base = dict(model="none", tiny=True, random_weights=False, seed=0, base_16bit=False)
    return script.load_model(args, base, script.load_config(args, base), tokenizer, torch.device("cpu"))


def encoded(script, tokenizer, benchmark, count: int | None = None, limit: int = 4096) -> list[dict]:
    examples = benchmark.splits["dev"][:count]
    rows = {name: [getattr(e, name) for e in examples] for name in ("question", "db_id", "values", "sql")}
    columns = script.encode(rows, benchmark.schemas, tokenizer, limit)
    return [dict(zip(columns, values)) for values in zip(*columns.values())]


# ------------------------------------------------------------------------------------------------------------ tokens


def check_labels(script, tokenizer, benchmark):
    rows = encoded(script, tokenizer, benchmark)
    for start in range(0, len(rows), 50):
        batch, ends = script.packs_of(rows[start : start + 50], tokenizer.pad_token_id)
        assert (batch["labels"][batch["segments"] == -1] == -100).all()
        assert sorted(number for pack in ends for number, _ in pack) == list(range(len(rows[start : start + 50])))
        for pack, number, place in ((pack, *end) for pack, found in enumerate(ends) for end in found):
            row, example = rows[start + number], benchmark.splits["dev"][start + number]
            own = batch["segments"][pack] == batch["segments"][pack, place]
            ids, labels = batch["input_ids"][pack, own], batch["labels"][pack, own]
            answer = labels[labels != -100].tolist()
            assert answer[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in answer[:-1]
            assert tokenizer.decode(answer[:-1]).strip() == target(example.sql)
            first = len(row["input_ids"])
            assert (labels[:first] == -100).all() and len(ids) == first + len(answer)
            assert ids[first:].tolist() == answer and ids[-1] == batch["input_ids"][pack, place]
            assert batch["position_ids"][pack, own].tolist() == list(range(len(ids)))
            said = prompt(example.question, benchmark.schemas[example.db_id]) + CUE
            assert "".join(tokenizer.decode(ids[:first], skip_special_tokens=True).split()) == "".join(said.split())


def test_labels_are_the_sql_and_the_end_of_sequence_behind_a_masked_prompt(script, tokenizer, benchmark):
    check_labels(script, tokenizer, benchmark)


def test_labels_are_right_for_a_byte_level_vocabulary_whose_pad_is_its_end(script, benchmark):
    vocabulary = ByteLevelBPETokenizer()
    texts = [f"{prompt(e.question, benchmark.schemas[e.db_id])}{CUE} {e.sql}" for e in benchmark.splits["train"][:500]]
    vocabulary.train_from_iterator(texts, vocab_size=800, special_tokens=["<end>"], show_progress=False)
    special = dict.fromkeys(["eos_token", "pad_token", "unk_token"], "<end>")
    tokenizer = script.Tokenizer(tokenizer_object=vocabulary._tokenizer, **special)
    check_labels(script, tokenizer, benchmark)


def test_a_prompt_that_is_too_long_keeps_its_question_its_end_and_the_cue(script, args, benchmark, monkeypatch):
    monkeypatch.setattr(small_tokenizer, "LINES", "")
    monkeypatch.setattr(small_tokenizer, "WORDS", ".")  # a token a character
    tokenizer = script.load_tokenizer(args, benchmark)
    (whole,) = encoded(script, tokenizer, benchmark, 1)
    limit = len(whole["input_ids"]) - 20
    (cut,) = encoded(script, tokenizer, benchmark, 1, limit)
    text = tokenizer.decode(cut["input_ids"], skip_special_tokens=True)
    assert (whole["shortened"], cut["shortened"]) == (False, True)
    assert len(cut["input_ids"]) <= limit and cut["labels"] == whole["labels"]
    assert text.startswith(benchmark.splits["dev"][0].question) and text.endswith("] SQL:")


# ------------------------------------------------------------------------------------------------------------- model

SHARES = {
    "gpt_neox_20b": dict(trainable_parameters=8_650_752, trainable_percent_packed=0.0816),
    "llama_65b": dict(trainable_parameters=20_971_520, trainable_percent_packed=0.0637),
}


def skeleton(script):
    """The published model in 4 bits, without memory for its weights."""
    return quantised.skeleton_of(AutoModelForCausalLM, script.Config(**script.CONFIG), script.quantization())


def published_args(script):
    return replace(script.Args(), **script.PUBLISHED)


def test_the_published_share_of_trainable_weights(script, tokenizer):
    model = script.add_lora(skeleton(script), published_args(script), tokenizer)
    counts, published = script.count_parameters(model), SHARES[script.SCRIPT]
    assert counts["trainable_parameters"] == published["trainable_parameters"]
    assert round(counts["trainable_percent_packed"], 4) == published["trainable_percent_packed"]


def test_the_published_share_of_llama_counts_its_output_layer_packed(tokenizer):
    model = llama_65b.add_lora(skeleton(llama_65b), published_args(llama_65b), tokenizer)
    stored = sum(w.numel() / (1 + isinstance(w, bnb.nn.Params4bit)) for w in model.parameters()) - 32000 * 8192 / 2
    assert round(100 * 20_971_520 / stored, 4) == 0.0639


def test_every_linear_layer_but_the_output_is_4_bit_and_can_have_lora(script, model):
    layers = [path for path, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert len(layers) == 4 * {"gpt_neox_20b": 4, "llama_65b": 7}[script.SCRIPT]
    assert all(path.endswith("base_layer") for path in layers)
    assert not any("lm_head" in path or "embed" in path for path in layers)
    assert not any(model.get_submodule(path).support_avx512bf16_for_cpu for path in layers)


def test_the_loss_is_the_models_own_and_meets_answers_only(script, model, tokenizer, benchmark):
    rows = encoded(script, tokenizer, benchmark, 5)
    batch = script.collate(rows, tokenizer.pad_token_id)
    seen = []
    output = model.get_base_model().get_output_embeddings()
    hook = output.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    loss = script.AnswerLoss(model)(**batch)
    hook.remove()
    assert seen == [(sum(len(row["labels"]) for row in rows), 128)]
    own = 0.0
    for row in rows:
        ids, labels = row["input_ids"] + row["labels"], [-100] * len(row["input_ids"]) + row["labels"]
        own += model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item() * len(row["labels"])
    assert loss.item() == pytest.approx(own, rel=1e-5)
    alone = [script.AnswerLoss(model)(**script.collate([row], tokenizer.pad_token_id)).item() for row in rows]
    assert loss.item() == pytest.approx(sum(alone), rel=1e-5)


def test_padding_does_not_change_what_is_written(script, args, model, tokenizer, benchmark):
    rows = encoded(script, tokenizer, benchmark, 6)
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    accelerator = Accelerator(cpu=True)
    raw = replace(args, max_output_tokens=8)
    for name, weight in model.named_parameters():
        if "head" in name or "embed_out" in name:
            weight.data.normal_()  # an output layer that is not the embeddings says more than the prompt's last word
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "clean_sql", lambda text: text)
        columns = script.Dataset.from_list([row | dict(db_id="any") for row in rows])
        together = script.generate(model.eval(), tokenizer, columns, dict(any=None), raw, accelerator, Stop())
        alone = script.generate(model, tokenizer, columns, dict(any=None), replace(raw, eval_batch_size=1), accelerator, Stop())
    together, alone = ([own[0]["sql"] for own in answers] for answers in (together, alone))
    assert together == alone and len(set(together)) > 1
    assert not any("SQL" in text for text in together)  # nothing of the prompt


# -------------------------------------------------------------------------------------------------------------- loop


def test_training_after_evaluations_equals_training_alone(script, run):
    """On some CPUs bitsandbytes repacks a weight in its first evaluation, and the base passes no gradient after it."""
    alone = run(script, *FEW, "--max_updates", "4", out="alone")
    between = run(script, *FEW, "--max_updates", "4", "--eval_every", "1", out="between")
    assert alone["losses"] == between["losses"]


def test_two_updates_and_two_more_equal_four(script, two_and_two):
    straight, resumed = two_and_two(script, *FEW, "--lora_dropout", "0.3")  # its random numbers go on, too
    assert resumed["losses"] == straight["losses"]
    assert [row["predicted"] for row in resumed["predictions"]] == [row["predicted"] for row in straight["predictions"]]


def test_passes_and_recomputation_change_no_loss(script, run, monkeypatch):
    real, passes = script.AnswerLoss.forward, []
    monkeypatch.setattr(script.AnswerLoss, "forward", lambda self, **batch: passes.append(batch) or real(self, **batch))
    options = (*FEW, "--vary_schema", "0.4", "--max_updates", "3")
    one = run(script, *options, out="one")
    assert len(passes) == 3
    for cut in (["--batch_size", "3"], ["--batch_tokens", "700", "--gradient_checkpointing", "on"]):
        passes.clear()
        two = run(script, *options, *cut, out="two")
        assert len(passes) >= 6 and two["losses"] == pytest.approx(one["losses"], rel=1e-4)


def test_an_evaluation_batch_that_does_not_fit_comes_again_in_smaller_ones(script, run, monkeypatch, capsys):
    real, sizes = script.write, []

    def write(model, rows, *given):
        sizes.append(len(rows))
        if len(rows) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(model, rows, *given)

    monkeypatch.setattr(script, "write", write)
    done = run(script, *FEW, "--eval_only", "--eval_batch_size", "6", "--max_output_tokens", "20")
    assert sizes == [6, 5, 4, 3, 3] and len(done["predictions"]) == 6
    assert "3 questions of up to" in capsys.readouterr().out


def command(script, options: list[str], code: int = 0) -> subprocess.CompletedProcess:
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, f"{script.SCRIPT}.py", "--tiny", *options]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=hidden, timeout=1800)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_two_processes_give_the_losses_and_predictions_of_one(one_and_two, script, small_sample):
    options = ("--data", str(small_sample), "--eval_examples", "7", "--eval_every", "0")
    options += ("--max_updates", "4", "--update_examples", "8")
    one, two = one_and_two(script, *options, cut=("--batch_size", "3"))
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert len(two["predictions"]) == 7 and two["predictions"] == one["predictions"]


@pytest.mark.slow
def test_the_small_model_learns_the_sample(script, tmp_path):
    command(script, ["--epochs", "2", "--eval_every", "0", "--out", str(tmp_path / "run")])
    done = records(tmp_path / "run")
    assert done["result"]["n"] == 300
    assert done["result"]["execution_accuracy"] >= (0.5 if script is llama_65b else 0.4)


# ---------------------------------------------------------------------------------------------------- stored models


@pytest.fixture
def directory(script, tokenizer, tmp_path):
    """A small 16-bit model with its tokenizer, as the hub would give it."""
    torch.manual_seed(0)
    config = script.Config(**script.TINY_CONFIG)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path / "hub")
    tokenizer.save_pretrained(tmp_path / "hub")
    return tmp_path / "hub"


def trained(script, run, model: Path, out: str, *options: str) -> dict:
    few = (*FEW, "--data", "sample", "--max_updates", "2", "--max_output_tokens", "8")
    return run(script, "--model", str(model), *few, *options, tiny=False, out=out)


def test_a_model_saved_in_4_bits_trains_as_the_one_it_came_from(script, run, directory, monkeypatch):
    first = trained(script, run, directory, "first")
    stored = directory.with_name("stored")
    words = [script.__file__, "--model", str(directory), "--data", "nowhere", "--save_4bit", str(stored)]
    monkeypatch.setattr(sys, "argv", words)
    script.main()
    assert "quantization_config" in json.loads((stored / "config.json").read_text())
    assert trained(script, run, stored, "second")["losses"] == first["losses"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(UserError, match="is there already: name a new directory"):
        script.main()


@pytest.mark.parametrize("recipe", [[], ["--published"]], ids=["default", "published"])
def test_an_adapter_merges_into_16_bit_weights(script, run, directory, monkeypatch, capsys, recipe):
    done = trained(script, run, directory, "run", "--learning_rate", "0.01", *recipe)
    words = [script.__file__, "--model", str(done["folder"]), "--data", "no", "--merge", str(directory.with_name("merged"))]
    monkeypatch.setattr(sys, "argv", words)
    script.main()
    sign = "no-" if recipe else ""  # the defaults may change
    asked = " ".join(f"--{sign}{flag}" for flag in ("values", "full_names", "share_schema", "plain_sql"))
    said = f"now stands in {words[-1]}; it was trained with {asked}; ask it with --no-back_translation\n"
    assert capsys.readouterr().out.endswith(said)
    plain, merged = (AutoModelForCausalLM.from_pretrained(path) for path in (directory, directory.with_name("merged")))
    assert merged.dtype == torch.bfloat16
    changed = {name.split(".")[-2] for name, w in merged.named_parameters() if not torch.equal(w, plain.get_parameter(name))}
    linear = {name.split(".")[-1] for name, module in plain.named_modules() if isinstance(module, torch.nn.Linear)}
    assert changed == (set(script.PUBLISHED["lora_targets"].split(",")) if recipe else linear - {quantised.ends(plain)[1]})


def test_lora_trains_on_a_base_of_16_bits_and_an_evaluation_keeps_to_it(script, run, directory, capsys):
    packed = trained(script, run, directory, "packed")
    done = trained(script, run, directory, "whole", "--base_16bit")
    assert done["result"]["method"] == "LoRA, not quantised" and packed["result"]["method"] == "QLoRA NF4"
    shares = [each["result"][name] for each in (done, packed) for name in ("trainable_percent", "trainable_percent_packed")]
    assert shares[0] == shares[1] == shares[2] < shares[3]  # nothing is packed
    assert done["losses"] != packed["losses"] and done["losses"] == pytest.approx(packed["losses"], rel=0.1)
    longer = trained(script, run, directory, "longer", "--base_16bit", "--max_updates", "12")
    assert longer["losses"][11] < longer["losses"][0]
    rates = [record["learning_rate"] for record in longer["log"] if record["event"] == "update"]
    assert max(rates) == 1e-3  # that of a small model
    again = trained(script, run, done["folder"], "again", "--eval_only")
    assert "stays so" in capsys.readouterr().out and again["result"]["method"] == "LoRA, not quantised"
    assert again["predictions"] == done["predictions"]


# --------------------------------------------------------------------------------------------------------- bad input


def test_a_small_model_learns_at_a_higher_rate_than_a_large_one():
    assert [quantised.peak_rate(count) for count in (65_485_545_472, 20_600_000_000, 7e9, 1.5e9)] == [1e-4, 2e-4, 2e-4, 1e-3]


POINTER = b"version https://git-lfs.github.com/spec/v1"


@pytest.mark.parametrize(
    ("name", "kept"),
    [("model.safetensors", None), ("model.safetensors", 5000), ("model.safetensors", POINTER), ("pytorch_model.bin", POINTER),
     ("pytorch_model.bin", b""), ("pytorch_model.bin", 5000), ("model.safetensors.index.json", b'{"weight_map": {')],
)  # fmt: skip
def test_weights_that_are_missing_or_not_whole_are_named_in_one_line(script, run, directory, name, kept):
    weights = directory / "model.safetensors"
    if isinstance(kept, int) and name.endswith(".bin"):
        torch.save(load_file(weights), directory / name)
    whole = (directory / name).read_bytes() if isinstance(kept, int) else b""
    weights.unlink()
    if kept is not None:
        (directory / name).write_bytes(whole[:kept] if isinstance(kept, int) else kept)
    with pytest.raises(UserError, match="the weights of .*hub cannot be read or downloaded: get them again, whole") as caught:
        trained(script, run, directory, "run")
    assert "\n" not in str(caught.value)


def changed(directory: Path, weights=lambda name: True, **config: object) -> None:
    """Keep only some of a stored model's weights, and change its configuration."""
    kept = {name: weight for name, weight in load_file(directory / "model.safetensors").items() if weights(name)}
    save_file(kept, directory / "model.safetensors", metadata=dict(format="pt"))
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


@pytest.mark.parametrize("base", [[], ["--base_16bit"]], ids=["packed", "whole"])
@pytest.mark.parametrize(
    ("weights", "config", "said"),
    [
        (
            lambda name: not name.endswith(("lm_head.weight", "embed_out.weight")),
            {},
            r"they lack \w+\.weight: get",
        ),
        (lambda name: ".layers.3." not in name, {}, r"they lack .*layers\.3\..* and \d+ more: get"),
        (lambda name: True, dict(num_hidden_layers=3), r"they also have .*layers\.3\..* and \d+ more: get"),
        (lambda name: True, dict(intermediate_size=128), r"they have another size of .*\.mlp\..* and \d+ more: get"),
        (lambda name: True, dict(vocab_size=2056), r"they have another size of .* and 1 more: get"),
    ],
    ids=["no output layer", "fewer layers", "more layers", "other sizes", "other vocabulary"],
)
def test_weights_that_do_not_match_their_configuration_are_named(script, run, directory, base, weights, config, said):
    changed(directory, weights, **config)
    with pytest.raises(UserError, match=f"the weights of .*hub do not match its config.json: {said}") as caught:
        trained(script, run, directory, "run", *base)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("base", [[], ["--base_16bit"]], ids=["packed", "whole"])
def test_an_output_layer_that_is_the_embeddings_is_not_missed(script, run, directory, base):
    changed(directory, lambda name: not name.endswith(("lm_head.weight", "embed_out.weight")), tie_word_embeddings=True)
    assert trained(script, run, directory, "run", *base)["result"]["updates"] == 2


def test_a_directory_without_a_tokenizer_says_so(script, run, directory):
    """transformers makes an empty one of some kinds, which reads every word alike."""
    for path in directory.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UserError, match="the directory .*hub has no tokenizer: .*tokenizer.json"):
        trained(script, run, directory, "run")


def test_an_adapter_without_the_record_of_its_run_says_so(script, run, directory):
    done = trained(script, run, directory, "run")
    (done["folder"] / "best" / "checkpoint.json").unlink()
    with pytest.raises(UserError, match="best is an adapter without checkpoint.json"):
        trained(script, run, done["folder"] / "best", "other")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_is_full_or_closed_is_not_taken_for_bad_weights(number):
    class Auto:
        @staticmethod
        def from_pretrained(source, **how):
            try:
                raise OSError(number, os.strerror(number), "cache/blob")
            except OSError as error:
                raise OSError(f"at cache/blob when downloading {source}") from error

    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        quantised.weights_from(Auto, "some/model", None)
    assert caught.value.errno == number


def test_what_a_run_trained_is_not_lost_where_its_base_is_stored(script, run, directory, tmp_path, capsys):
    done = trained(script, run, directory, "run")
    with pytest.raises(UserError, match="is an adapter for one: name the model, or keep both in 16 bits with --merge"):
        run(script, "--model", str(done["folder"]), "--save_4bit", str(tmp_path / "new"), tiny=False)
    assert not (tmp_path / "new").exists()
    run(script, "--model", str(directory), "--save_4bit", str(tmp_path / "new"), tiny=False)
    assert "it was trained" not in capsys.readouterr().out


def test_a_base_of_16_bits_is_not_one_that_is_stored_in_4(script, run, directory, tmp_path):
    with pytest.raises(UserError, match="--save_4bit keeps a model in 4 bits, and --base_16bit, or the run"):
        run(script, "--model", str(directory), "--base_16bit", "--save_4bit", str(tmp_path / "new"), tiny=False)
    config = json.loads((directory / "config.json").read_text())
    stored = config | dict(quantization_config=dict(quant_method="bitsandbytes", load_in_4bit=True))
    (directory / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match="is quantised by bitsandbytes: name its 16-bit original"):
        trained(script, run, directory, "run", "--base_16bit")


def test_an_adapter_of_another_base_is_refused(script, run, directory, tokenizer):
    done = trained(script, run, directory, "run")
    other = script.Config(**(script.TINY_CONFIG | dict(hidden_size=64)))
    AutoModelForCausalLM.from_config(other, dtype=torch.bfloat16).save_pretrained(directory)
    with pytest.raises(UserError, match="is no adapter of this model"):
        trained(script, run, done["folder"], "again")


def test_a_checkpoint_of_the_other_script_is_refused(run, tmp_path):
    run(gpt_neox_20b, *FEW, "--max_updates", "1")
    with pytest.raises(UserError, match="was saved by gpt_neox_20b.py: name a checkpoint of llama_65b.py"):
        run(llama_65b, "--eval_only", "--model", str(tmp_path / "run"), out="other")


def test_a_tokenizer_without_an_end_is_refused(script, run, directory, tokenizer):
    config = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if "eos" not in k}))
    with pytest.raises(UserError, match="has no end-of-sequence token"):
        trained(script, run, directory, "run")


def test_a_directory_of_another_architecture_is_refused(script, run, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(UserError, match=f"of the type t5: {script.SCRIPT}.py trains"):
        run(script, "--model", str(tmp_path), "--data", "sample", tiny=False)


def test_a_model_quantised_otherwise_is_refused(script, run, directory):
    config = json.loads((directory / "config.json").read_text()) | dict(quantization_config=dict(quant_method="gptq", bits=4))
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="is quantised by gptq: name its 16-bit original"):
        trained(script, run, directory, "run")


def test_names_of_targets_may_stand_apart(script, run):
    names = ", ".join(script.PUBLISHED["lora_targets"].split(","))
    done = run(script, *FEW, "--max_updates", "1", "--lora_targets", names)
    assert done["result"]["updates"] == 1


def test_targets_that_are_not_there_are_refused_with_those_that_are(script, run):
    there = {"gpt_neox_20b": "dense,dense_4h_to_h", "llama_65b": "down_proj,gate_proj"}[script.SCRIPT]
    with pytest.raises(UserError, match=f"--lora_targets q,nothing: the model has {there}"):
        run(script, "--lora_targets", "q,nothing")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--random_weights"], "--random_weights are drawn on one GPU: leave out --device_map auto"),
        (["--processes", "2"], "--device_map auto is one process on all GPUs, not 2: leave out --processes"),
    ],
)
def test_a_model_is_spread_alone(script, run, options, message):
    with pytest.raises(UserError, match=message):
        run(script, "--device_map", "auto", *options, tiny="--random_weights" not in options)


def test_more_tokens_than_positions_are_refused(script, run):
    with pytest.raises(UserError, match="are more than the model's 2,048 positions: lower them"):
        run(script, "--max_input_tokens", "2000")


def test_a_replica_that_does_not_fit_says_by_how_much(script, monkeypatch):
    needed = {"gpt_neox_20b": 10.7, "llama_65b": 32.1}[script.SCRIPT]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (free, 80 * 2**30))
    model, gpu, free = skeleton(script), torch.device("cuda"), 8 * 2**30
    message = f"takes {needed} GiB, and 8.0 GiB of GPU memory are free, {needed - 8:.1f} GiB too little: "
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=message + "take a larger GPU"):
        quantised.check_room(model, gpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    message += "--device_map auto spreads it"
    with pytest.raises(UserError, match=message):
        quantised.check_room(model, gpu)
    if needed > 16:
        with pytest.raises(UserError, match="16.0 GiB of GPU memory are free, .* name more of them in CUDA_VISIBLE_DEVICES"):
            quantised.check_room(model, gpu, spread=True)
    free = 33 * 2**30
    quantised.check_room(model, gpu)
    quantised.check_room(model, torch.device("cpu"))


@pytest.mark.parametrize("option", ["--save_4bit", "--merge"])
def test_random_weights_are_not_exported(script, run, tmp_path, option):
    with pytest.raises(UserError):
        run(script, option, str(tmp_path / "new"))


# what the variable holds when torch is imported: once CUDA has started, nothing reads it
WATCHED = """
import os, sys
class Watch:
    def find_spec(self, name, *rest):
        if name == "torch":
            held.append(os.environ.get("PYTORCH_ALLOC_CONF"))
held = []
sys.meta_path.insert(0, Watch())
import llama_65b
print(held[0])
"""


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (None, None, "expandable_segments:True"),
        ("PYTORCH_ALLOC_CONF", "max_split_size_mb:64", "max_split_size_mb:64"),
        ("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64", "max_split_size_mb:64"),  # its older name
    ],
)
def test_gpu_memory_grows_in_segments_unless_a_user_asks_for_something_else(name, value, expected):
    environment = {key: kept for key, kept in os.environ.items() if "ALLOC_CONF" not in key} | ({name: value} if name else {})
    said = subprocess.run(
        [sys.executable, "-c", WATCHED], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert said.splitlines()[-1] == expected
