"""The strongest public trainers beside llama_65b.py: TRL's SFTTrainer and Unsloth, on the same examples and one GPU.

    python3 tests/bench/peers.py --data data/spider --out runs/peers --model DIR
    python3 tests/bench/peers.py --data data/spider --out runs/peers --model DIR --runs 65b-script,65b-trl --updates 3
    python3 tests/bench/peers.py --data data/spider --out runs/peers --model DIR --sizes 7b --memory 24
    python3 tests/bench/peers.py --data sample --out /tmp/peers --smoke

Random weights in NF4 stand in for LLaMA-65B, and for a 7B of the same architecture; `--model` names a directory with the
tokenizer. `script` is the script's own command with its defaults and `--compile on`, `script-not-shared` the same with
`--no-share_schema`. `trl` packs, is padding-free, and has Liger's kernels and FlashAttention-2; `unsloth` packs. Both get the
script's LoRA on all linear layers, its optimiser, and its questions in the form that is not shared, with varied schemas, drawn
at random over all of training; only SQL and end count in the loss. Speed is that of whole updates, of which the first
two, which warm up, are left out, and counts real tokens only.

A peer's forward pass holds a number of rows of packed questions, `--tries 8x2048,4x2048r`: the first that fits the memory,
each in a process of its own; with an r activations are recomputed (Unsloth moves them to the CPU). An update is as many passes
as come closest to `--update_examples`. `--memory 24` stands for a GPU of 24 GiB. Records that stand in `--out` are not measured
again, failures are. `--smoke` tries what a CPU can: the script's runs, with `--tiny`.

The peers were tried on an H100 with trl 1.15.0, unsloth 2026.10.9, liger-kernel 0.8.5 and peft 0.21.2 beside the pinned
versions of requirements.txt. Where flash-attn is not installed, since it has
no wheel for that torch, torch's own FlashAttention-2 kernels stand behind its interface, and the table says so.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from scaling import WARM_UP, environment, launched
from table import call, timed_updates

from data.common.errors import exit_on_user_error
from data.common.files import write_atomically
from data.report.curves import markdown, number

SCRIPT = "llama_65b"
SIZES = {
    "65b": {},  # the script's own
    "7b": dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32),
}
KINDS = {"script": (), "script-not-shared": ("--no-share_schema",), "trl": (), "unsloth": ()}
NEEDED = {"trl": ("trl", "peft", "bitsandbytes", "datasets", "liger_kernel")}
NEEDED["unsloth"] = ("unsloth", "unsloth_zoo", *NEEDED["trl"][:-1])
TRIES = {
    "65b": "10x2048r,8x2048r,6x2048r,4x2048r,2x2048r,1x2048r",
    "7b": "8x2048,6x2048,4x2048,2x2048,1x2048,8x2048r,4x2048r,2x2048r,1x2048r",
}
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
STAND_IN = "BENCH_PEERS"  # in the environment: sizes and memory of the script that this file stands in for
FULL = re.compile("out of memory|OutOfMemory|cudaErrorMemoryAllocation")
OFFLINE = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "UNSLOTH_DISABLE_STATISTICS", "UNSLOTH_DISABLE_AUTO_UPDATES")


def limit(gib: float) -> None:
    """Let this process have no more of the GPU's memory; 0: all."""
    if gib:
        import torch

        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 2**30 / whole))


def stand_in(sizes: dict, memory: float) -> None:
    """Run the script's main in this process, at other sizes and with less memory."""
    script = importlib.import_module(SCRIPT)
    script.CONFIG |= sizes
    limit(memory)
    exit_on_user_error(script.main)


# FlashAttention-2 where its own package is missing: what `write_flash_attention` makes of these is what the peers look for


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, **more):
    """(batch, length, heads, size), as flash_attn's."""
    import torch

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    how = dict(is_causal=causal, scale=softmax_scale, enable_gqa=True)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, **how).transpose(1, 2)


def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
                           softmax_scale=None, causal=False, **more):  # fmt: skip
    """(tokens of all texts, heads, size), as flash_attn's."""
    import torch
    from torch.nn.attention.varlen import varlen_attn

    ends = [each.to(torch.int32) for each in (cu_seqlens_q, cu_seqlens_k)]
    window = (-1, 0 if causal else -1)  # what torch calls causal
    return varlen_attn(q, k, v, *ends, int(max_seqlen_q), int(max_seqlen_k), scale=softmax_scale, window_size=window)


def write_flash_attention(folder: Path) -> None:
    """A package flash_attn of the two functions above; peers find it by its files and its metadata."""
    names = "flash_attn_func, flash_attn_varlen_func"
    files = {
        "flash_attn/__init__.py": f"from peers import {names}\nflash_attn_with_kvcache = None\n__version__ = '2.8.3'\n",
        "flash_attn/flash_attn_interface.py": f"from peers import {names}\nflash_attn_gpu = None\n",
        "flash_attn/bert_padding.py": "from transformers.modeling_flash_attention_utils import _pad_input as pad_input\n"
        "from transformers.modeling_flash_attention_utils import _unpad_input as unpad_input\n",
        "flash_attn-2.8.3.dist-info/METADATA": "Metadata-Version: 2.1\nName: flash-attn\nVersion: 2.8.3\n",
        "flash_attn-2.8.3.dist-info/top_level.txt": "flash_attn\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def random_model(script, args, config):
    """The model of a configuration with random weights in NF4, as the script makes it."""
    import torch
    from transformers import AutoModelForCausalLM

    from data.with_torch import quantised

    how, device = script.quantization(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    skeleton = quantised.skeleton_of(AutoModelForCausalLM, config, how)
    return quantised.random_base(skeleton, args.seed, device, how)


def trl_model(script, args, tokenizer, again: bool) -> tuple:
    """What SFTTrainer is given: the model, the tokenizer and the LoRA that it adds itself."""
    from peft import LoraConfig

    config = script.Config(**script.CONFIG, pad_token_id=tokenizer.pad_token_id, use_cache=False)
    config._attn_implementation = "flash_attention_2"
    # transformers casts queries to a quantised model's dtype
    config._is_quantized, config.dtype = True, script.quantization().bnb_4bit_compute_dtype
    lora = LoraConfig(task_type="CAUSAL_LM", r=args.lora_rank, lora_alpha=args.lora_alpha, target_modules=LAYERS)
    return random_model(script, args, config), tokenizer, dict(peft_config=lora)


def unsloth_model(script, args, tokenizer, again: bool) -> tuple:
    """The same from Unsloth, which patches what transformers loads: it is handed random weights in place of a checkpoint's."""
    import unsloth.models.llama as inside
    from transformers import AutoConfig
    from transformers.quantizers import AutoHfQuantizer
    from unsloth import FastLanguageModel

    class RandomWeights:
        @staticmethod
        def from_pretrained(name, *given, **how):
            config = AutoConfig.from_pretrained(name)
            config._attn_implementation = how.get("attn_implementation") or "sdpa"
            model = random_model(script, args, config)
            model.config._name_or_path = model.name_or_path = str(name)
            model.hf_quantizer = AutoHfQuantizer.from_config(script.quantization(), pre_quantized=True)
            model.is_quantized, model.quantization_method = True, "bitsandbytes"
            return model

    folder = Path(tempfile.mkdtemp()) / "llama"
    tokenizer.model_max_length = script.CONFIG["max_position_embeddings"]
    tokenizer.save_pretrained(folder)
    # as of a checkpoint in 4 bits
    config = script.Config(**script.CONFIG, pad_token_id=tokenizer.pad_token_id, use_cache=False).to_dict()
    config |= dict(architectures=["LlamaForCausalLM"], dtype="bfloat16", model_type="llama")
    config |= dict(quantization_config=script.quantization().to_dict() | dict(quant_method="bitsandbytes"))
    (folder / "config.json").write_text(json.dumps(config, default=str))
    how = dict(max_seq_length=tokenizer.model_max_length, use_gradient_checkpointing="unsloth" if again else False)
    real, inside.AutoModelForCausalLM = inside.AutoModelForCausalLM, RandomWeights
    try:
        model, tokenizer = FastLanguageModel.from_pretrained(str(folder), load_in_4bit=True, local_files_only=True, **how)
    finally:
        inside.AutoModelForCausalLM = real
    model = FastLanguageModel.get_peft_model(
        model, r=args.lora_rank, lora_alpha=args.lora_alpha, lora_dropout=0, bias="none", target_modules=LAYERS,
        random_state=args.seed, **how,
    )  # fmt: skip
    return model, tokenizer, {}


def questions(script, args, tokenizer, benchmark, wanted: int) -> list[tuple[list[int], list[int]]]:
    """Prompts and answers of an epoch's random training questions, in the script's tokens and not shared."""
    from data.training.variation import vary

    varied = vary(benchmark, args.vary_schema, 1, args.seed)
    examples = varied.splits["train"]
    chosen = random.Random(args.seed).sample(examples, min(wanted, len(examples)))
    rows = {name: [getattr(example, name) for example in chosen] for name in ("question", "db_id", "values", "sql")}
    found = script.encode(rows, varied.schemas, tokenizer, args.max_input_tokens)
    return list(zip(found["input_ids"], found["labels"]))


def train(size: str, kind: str, trial: str, given: argparse.Namespace) -> dict:
    """Train a peer for so many updates -> what they took."""
    importlib.import_module(kind)  # before all else: Unsloth changes what is imported after it
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from data.benchmark import sample, spider
    from data.run.hardware import utilisation

    limit(given.memory)
    script, gpu = importlib.import_module(SCRIPT), torch.cuda.is_available()
    script.CONFIG |= SIZES[size]
    args = script.Args(random_weights=True)
    args.model = given.model or args.model
    how = {name: getattr(args, name) for name in ("values", "plain_sql", "full_names")}
    benchmark = spider.load(sample.build() if given.data == "sample" else given.data, **how)
    tokenizer = script.load_tokenizer(args, benchmark)
    batch, width, again = re.fullmatch(r"(\d+)x(\d+)(r?)", trial).groups()
    batch, width, updates = int(batch), int(width), given.updates + WARM_UP
    pairs = questions(script, args, tokenizer, benchmark, 4 * updates * given.update_examples)
    room = batch * width / statistics.fmean(len(prompt) + len(answer) for prompt, answer in pairs)
    passes = max(1, round(given.update_examples / room))
    pairs = pairs[: int(1.05 * updates * passes * room) + 1]  # a few more, since rows are not quite full
    columns = dict(
        input_ids=[prompt + answer for prompt, answer in pairs],
        completion_mask=[[0] * len(prompt) + [1] * len(answer) for prompt, answer in pairs],
    )
    model, tokenizer, more = (unsloth_model if kind == "unsloth" else trl_model)(script, args, tokenizer, bool(again))
    options = dict(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=batch, gradient_accumulation_steps=passes,
        max_steps=updates, learning_rate=1e-4, lr_scheduler_type="constant", bf16=gpu, use_cpu=not gpu,
        optim="paged_adamw_8bit" if gpu else "adamw_torch", logging_steps=1, save_strategy="no", report_to="none",
        disable_tqdm=True, seed=args.seed, max_length=width, packing=True, completion_only_loss=True,
        gradient_checkpointing=bool(again),
    )  # fmt: skip
    if kind == "trl":
        options |= dict(packing_strategy="bfd", gradient_checkpointing_kwargs=dict(use_reentrant=False), use_liger_kernel=gpu)
        # TRL has an output layer of its own for answers
        options["liger_kernel_config"] = dict(rope=True, rms_norm=True, swiglu=True, fused_linear_cross_entropy=False)
    else:
        options["dataset_num_proc"] = 1
    data = Dataset.from_dict(columns)
    trainer = SFTTrainer(model=model, args=SFTConfig(**options), train_dataset=data, processing_class=tokenizer, **more)
    counts: list[tuple[int, int, int]] = []  # of each pass: examples, real tokens, answers' tokens
    collator, times = trainer.data_collator, []

    def collate(rows: list[dict]) -> dict:
        made = collator(rows)
        lengths = [length for row in rows for length in row.get("seq_lengths") or [len(row["input_ids"])]]
        counts.append((len(lengths), sum(lengths), int((made["labels"] != -100).sum())))
        assert kind == "trl" or "packed_seq_lengths" in made, "Unsloth does not keep packed questions apart"
        if kind == "trl":  # else transformers would look for the ends of texts in each layer anew
            ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
            made |= dict(cu_seq_lens_q=ends, cu_seq_lens_k=ends, max_length_q=max(lengths), max_length_k=max(lengths))
        return made

    class Clock(TrainerCallback):
        def now(self, *given, **more) -> None:
            if gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter())

        def on_train_begin(self, *given, **more) -> None:
            counts.clear()  # of what was collated as a trial
            self.now()

        on_step_end = now

    trainer.data_collator = collate
    trainer.add_callback(Clock())
    trainer.train()
    seconds = [end - start for start, end in zip(times, times[1:])][WARM_UP:]
    groups = [counts[i : i + passes] for i in range(0, updates * passes, passes)][WARM_UP:]
    examples, tokens, answers = zip(*([sum(column) for column in zip(*group)] for group in groups))
    prompt_flops, answer_flops = script.flops_per_token(trainer.model)
    flops = prompt_flops * (sum(tokens) - sum(answers)) + answer_flops * sum(answers)
    name = torch.cuda.get_device_name() if gpu else "cpu"
    return dict(
        gpu_name=name, tried=trial, passes=passes, update_seconds=seconds, update_tokens=tokens, update_examples=examples,
        examples_per_second=sum(examples) / sum(seconds), tokens_per_second=sum(tokens) / sum(seconds),
        utilisation=utilisation(flops, sum(seconds), [name]), peak_memory_gib=script.peak_memory() / 2**30,
        losses=[line["loss"] for line in trainer.state.log_history if "loss" in line],
        versions={package: importlib.metadata.version(package) for package in ("torch", "transformers", *NEEDED[kind])},
    )  # fmt: skip


def measure_script(size: str, kind: str, given: argparse.Namespace, log: Path) -> dict:
    """Run the script -> what its updates took, or how it failed."""
    out = log.with_suffix("")
    shutil.rmtree(out, ignore_errors=True)
    options = ["--data", given.data, "--out", str(out), "--max_updates", str(given.updates + WARM_UP), "--eval_every", "0"]
    options += ["--eval_examples", "8", "--max_output_tokens", "8", "--save_every", "-1"]
    options += ["--tiny"] if given.smoke else ["--random_weights", "--compile", "on"]
    options += ["--update_examples", str(given.update_examples), *KINDS[kind]]
    options += ["--model", given.model] if given.model else []
    words = launched(SCRIPT, 1, options, given)
    here = [str(Path(__file__).resolve()) if word == f"{SCRIPT}.py" else word for word in words]
    other = dict(sizes=SIZES[size], memory=given.memory)
    if call(here, log, environment(given) | {STAND_IN: json.dumps(other)}):
        return dict(failed=last_line(log))
    result, timed = timed_updates(out)
    examples, seconds = timed.pop("examples_an_update"), timed["update_seconds"]
    said = re.search(r"forward passes of up to (.*) a GPU(.*)", log.read_text(errors="replace"))
    return dict(
        gpu_name=result["gpu_name"], tried=" ".join(said.group(1, 2)) if said else None, command=words,
        update_examples=[examples] * len(seconds), examples_per_second=examples * len(seconds) / sum(seconds),
        peak_memory_gib=timed.pop("train_peak_memory_gib"), **timed,
    )  # fmt: skip


def last_line(log: Path) -> str:
    """What a program said last: its error."""
    said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return said[-1][:200] if said else "no output"


def measure_peer(size: str, kind: str, given: argparse.Namespace, log: Path) -> dict:
    """Try a peer's forward passes, the largest first -> what the first that fits took, or how the last failed."""
    own = importlib.util.find_spec("flash_attn")
    attention = "flash-attn" if own else "torch's FlashAttention-2"
    variables = environment(given) | dict.fromkeys(OFFLINE, "1") | dict(UNSLOTH_COMPILE_LOCATION=str(given.out / "unsloth"))
    variables |= dict(CUDA_VISIBLE_DEVICES=os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0])
    if kind == "trl":
        variables |= dict(PYTORCH_ALLOC_CONF="expandable_segments:True")  # Unsloth sets its own
    if not own:
        write_flash_attention(given.out / "flash")
        variables |= dict(PYTHONPATH=os.pathsep.join(filter(None, [str(given.out / "flash"), os.environ.get("PYTHONPATH")])))
    made = log.with_suffix(".tmp")
    for trial in (given.tries or TRIES[size]).split(","):
        words = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--runs", f"{size}-{kind}", "--trial", trial]
        if not call([*words, "--out", str(made)], log, variables):
            record = json.loads(made.read_text())
            made.unlink()
            return record | dict(attention=attention)
        print(f"{size}-{kind}, {trial}: {last_line(log)}", flush=True)
        if not FULL.search(log.read_text(errors="replace")):
            break
    return dict(failed=last_line(log), tried=trial)


def table(records: dict[str, dict]) -> str:
    """All runs beside the script's default at their size, in Markdown."""
    head = ("run", "GPU", "forward pass", "examples an update", "tokens an example", "examples/s", "times script",
            "real tokens/s", "utilisation", "peak GiB", "with")  # fmt: skip
    lines = [markdown(head), "|---" * len(head) + "|"]
    for name, record in records.items():
        if failed := record.get("failed"):
            lines.append(markdown((name, None, record.get("tried"), *[None] * (len(head) - 4), failed)))
            continue
        speed, examples = record["examples_per_second"], record["update_examples"]
        script = records.get(f"{name.split('-')[0]}-script", {}).get("examples_per_second")
        versions = [f"{package} {version}" for package, version in record.get("versions", {}).items()]
        lines.append(markdown((
            name, record["gpu_name"], record["tried"], f"{statistics.fmean(examples):.0f}",
            f"{sum(record['update_tokens']) / sum(examples):.0f}", f"{speed:.3g}", f"{speed / script:.2f}" if script else None,
            f"{record['tokens_per_second']:,.0f}", number(record["utilisation"], "{:.0%}"),
            f"{record['peak_memory_gib']:.1f}", ", ".join([*versions, *filter(None, [record.get("attention")])]),
        )))  # fmt: skip
    return "\n".join(lines)


def absent(kind: str) -> str:
    """Why a run cannot be measured here; empty where it can."""
    import torch

    missing = [package for package in NEEDED.get(kind, ()) if not importlib.util.find_spec(package)]
    if missing:
        return f"{', '.join(missing)} not installed"
    return "no GPU is visible" if kind in NEEDED and not torch.cuda.is_available() else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="directory in Spider's layout, or sample")
    parser.add_argument("--out", type=Path, required=True, help="the runs, and a JSON of each")
    parser.add_argument("--model", default="", metavar="DIR", help="a directory with LLaMA's tokenizer")
    parser.add_argument("--sizes", default=",".join(SIZES), help="of the runs that --runs does not name, comma between")
    parser.add_argument("--runs", default="", help=f"comma between, as 65b-trl; left out, each size's {', '.join(KINDS)}")
    parser.add_argument("--updates", type=int, default=4, help="that count")
    parser.add_argument("--update_examples", type=int, default=128, help="examples an update; a peer's come close")
    parser.add_argument("--tries", default="", help="a peer's forward passes, ROWSxTOKENS, the largest first")
    parser.add_argument("--memory", type=float, default=0, metavar="GIB", help="of the GPU's that a run may have; 0: all")
    parser.add_argument("--smoke", action="store_true", help="with --tiny, on a CPU")
    parser.add_argument("--trial", default="", help=argparse.SUPPRESS)  # in a process of its own: --out is its record
    given = parser.parse_args()
    runs = {f"{size}-{kind}": (size, kind) for size in SIZES for kind in KINDS}
    wanted = given.runs.split(",") if given.runs else [run for run in runs if run.split("-")[0] in given.sizes.split(",")]
    if unknown := set(wanted) - set(runs):
        parser.error(f"--runs knows {', '.join(runs)}, not {', '.join(sorted(unknown))}")
    if given.trial:
        given.out.write_text(json.dumps(train(*runs[given.runs], given.trial, given)))
        return
    if given.smoke:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    given.out = given.out.resolve()  # commands run in the repository
    given.out.mkdir(parents=True, exist_ok=True)
    less = f"-{given.memory:g}gib" if given.memory else ""
    paths = {name: given.out / f"{name}{less}.json" for name in runs}
    for name in wanted:
        size, kind = runs[name]
        if paths[name].exists() and "failed" not in json.loads(paths[name].read_text()):
            continue
        if reason := absent(kind):
            print(f"{name}: left out, {reason}", flush=True)
            continue
        measure = measure_peer if kind in NEEDED else measure_script
        record = measure(size, kind, given, paths[name].with_suffix(".log"))
        write_atomically(paths[name], json.dumps(record | dict(run=name, memory=given.memory), indent=2) + "\n")
        print(f"{name}: {record.get('failed', 'measured')}", flush=True)
    print("\n" + table({name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}))


if __name__ == "__main__":
    if STAND_IN in os.environ:
        stand_in(**json.loads(os.environ[STAND_IN]))
    else:
        main()
