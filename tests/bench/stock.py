"""What one would write without these scripts: Hugging Face's Trainer, PEFT's defaults, all padded to 512. The peer to beat.

    python3 tests/bench/stock.py --run llama_65b --data data/spider --out runs/table --model DIR
    python3 tests/bench/stock.py --run T5_3B --data data/spider --out runs/table --model DIR --part train
    python3 tests/bench/stock.py --run flan_t5_base --data sample --out /tmp/stock --smoke

The model is the script's own at full size with random weights, on one GPU, and reads the same questions through the same
tokenizer (`--model`). GPT-NeoX-20B, LLaMA-65B and flan-t5-base: NF4, `prepare_model_for_kbit_training` with its gradient
checkpointing, `get_peft_model` with the published table's LoRA, Trainer in bf16 with the paged 8-bit AdamW. T5-3B: all
weights, Seq2SeqTrainer in bf16 with Adafactor, as AdamW's moments do not fit one GPU of 80 GB beside the float32 weights,
their gradients and the activations. Batches are the published table's; prompt, SQL and end are padded to 512 and cut there.

Answers are greedy, to dev prompts padded to 512, on the left where the model is decoder-only, from a model that is loaded
anew, as one answers with it: in bf16, without what training casts to float32. Random weights do not stop by themselves, and
every answer has `--new_tokens` tokens. A batch that does not fit is halved. Tokens a second and utilisation count real
tokens only, neither padding nor what was cut off. `--smoke` tries it all with the script's tiny model on a CPU.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

# Trainer would spread a batch over all GPUs that it sees
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]

import torch  # noqa: E402
from accelerate.utils.memory import should_reduce_batch_size  # noqa: E402
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers import default_data_collator as stacked  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from data.benchmark import sample, spider  # noqa: E402
from data.benchmark.schema import Benchmark  # noqa: E402
from data.common.files import write_atomically  # noqa: E402
from data.run.hardware import utilisation  # noqa: E402
from data.with_torch import quantised  # noqa: E402

SCRIPTS = ("T5_3B", "flan_t5_base", "gpt_neox_20b", "llama_65b")
WIDTH = 512  # to which the published recipe pads and cuts
WARM_UP = 2  # updates that do not count


def clock() -> float:
    """Now, once the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class StepSeconds(TrainerCallback):
    """The seconds of each optimiser step: forward, backward, clipping and the optimiser."""

    def __init__(self) -> None:
        self.began, self.seconds = 0.0, []

    def on_step_begin(self, *given, **more) -> None:
        self.began = clock()

    def on_step_end(self, *given, **more) -> None:
        self.seconds.append(clock() - self.began)


def options_of(script: ModuleType, smoke: bool):
    """The published table's batches and LoRA, as the script's options; with `smoke` those of its tiny model."""
    few = script.TINY | dict(tiny=True, batch_size=4, eval_batch_size=8)  # TINY's batches, padded to 512, take minutes
    return replace(script.Args(), **(few if smoke else script.PUBLISHED | dict(random_weights=True)))


def encoded(script: ModuleType, benchmark: Benchmark, examples: list, tokenizer) -> list[tuple[list[int], list[int]]]:
    """Examples -> prompt (with the cue, where the script has one) and answer (with its end), in the script's own tokens."""
    rows = {name: [getattr(example, name) for example in examples] for name in ("question", "db_id", "values", "sql")}
    found = script.encode(rows, benchmark.schemas, tokenizer, sys.maxsize)
    return list(zip(found["input_ids"], found["labels"]))


def filled(ids: list[int], filler: int, left: bool = False) -> list[int]:
    """Token ids, cut and padded to WIDTH."""
    pads = [filler] * (WIDTH - len(ids))
    return pads + ids[:WIDTH] if left else ids[:WIDTH] + pads


def example(prompt: list[int], answer: list[int], pad: int, joined: bool) -> dict[str, list[int]]:
    """A training example; `joined`: prompt and answer are one sequence, of which the answer's tokens count."""
    ids = prompt + answer if joined else prompt
    labels = [-100] * len(prompt) + answer if joined else answer
    return dict(input_ids=filled(ids, pad), attention_mask=filled([1] * len(ids), 0), labels=filled(labels, -100))


def build(script: ModuleType, args, config, device: torch.device, training: bool) -> torch.nn.Module:
    """The random model, as PEFT's documentation makes it ready for training, or as it is loaded for answers."""
    if config.is_encoder_decoder:
        model = script.random_model(config, args.seed, device)
    else:
        how = script.quantization()
        model = quantised.random_base(quantised.skeleton_of(AutoModelForCausalLM, config, how), args.seed, device, how)
    if not hasattr(args, "lora_rank"):
        return model if training or device.type == "cpu" else model.to(torch.bfloat16)
    if training:
        model = prepare_model_for_kbit_training(model)
    targets = quantised.lora_targets(model, args.lora_targets)
    kind = "SEQ_2_SEQ_LM" if config.is_encoder_decoder else "CAUSAL_LM"
    return get_peft_model(model, LoraConfig(
        task_type=kind, r=args.lora_rank, lora_alpha=args.lora_alpha, target_modules=targets,
    ))  # fmt: skip


def train(script: ModuleType, args, config, benchmark: Benchmark, tokenizer, given: argparse.Namespace) -> dict:
    """Train for so many updates -> what they took."""
    gpu = torch.cuda.is_available()
    size = args.batch_size
    count = (given.updates + WARM_UP) * size
    chosen, joined = random.Random(args.seed).sample(benchmark.splits["train"], count), not config.is_encoder_decoder
    rows = [example(*pair, tokenizer.pad_token_id, joined) for pair in encoded(script, benchmark, chosen, tokenizer)]
    model = build(script, args, config, torch.device("cuda" if gpu else "cpu"), training=True)
    prompt_flops, answer_flops = script.flops_per_token(model)
    counts: list[tuple[int, int]] = []  # real tokens of each batch: of prompts, of answers

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = stacked(rows)
        answers = int((batch["labels"] != -100).sum())
        counts.append((int(batch["attention_mask"].sum()) - (answers if joined else 0), answers))
        return batch

    trainer, arguments = (Trainer, TrainingArguments) if joined else (Seq2SeqTrainer, Seq2SeqTrainingArguments)
    best = "paged_adamw_8bit" if hasattr(args, "lora_rank") else "adafactor"
    optimizer = best if gpu else "adamw_torch"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    steps = StepSeconds()
    with tempfile.TemporaryDirectory() as folder:
        how = arguments(output_dir=folder, per_device_train_batch_size=size, gradient_accumulation_steps=1, bf16=gpu,
                        max_steps=given.updates + WARM_UP, optim=optimizer, learning_rate=1e-4,
                        seed=args.seed, eval_strategy="no", save_strategy="no", logging_strategy="no", report_to="none",
                        disable_tqdm=True, use_cpu=not gpu)  # fmt: skip
        trainer(model=model, args=how, train_dataset=rows, data_collator=collate, callbacks=[steps]).train()
    seconds = steps.seconds[WARM_UP:]
    counted = counts[WARM_UP:]
    flops = sum(prompt_flops * prompt + answer_flops * answer for prompt, answer in counted)
    tokens = [sum(pair) for pair in counted]
    name = torch.cuda.get_device_name() if gpu else "cpu"
    return dict(
        gpu_name=name, batch=size, width=WIDTH, optimizer=optimizer, update_seconds=seconds, update_tokens=tokens,
        examples_per_second=size / statistics.median(seconds), tokens_per_second=sum(tokens) / sum(seconds),
        utilisation=utilisation(flops, sum(seconds), [name]), peak_memory_gib=script.peak_memory() / 2**30,
        share_without_answer=sum(set(row["labels"]) == {-100} for row in rows) / count,  # cut off behind a long prompt
    )  # fmt: skip


def evaluate(script: ModuleType, args, config, benchmark: Benchmark, tokenizer, given: argparse.Namespace) -> dict:
    """Answer so many batches of dev -> what they took."""
    gpu = torch.cuda.is_available()
    device, left = torch.device("cuda" if gpu else "cpu"), not config.is_encoder_decoder
    dev = benchmark.splits["dev"][: given.eval_batches * args.eval_batch_size]
    prompts = [prompt for prompt, _ in encoded(script, benchmark, dev, tokenizer)]
    model = build(script, args, config, device, training=False).eval()
    if gpu:
        torch.cuda.reset_peak_memory_stats()

    def answer(prompts: list[list[int]], tokens: int) -> int:
        """Write so many tokens to each prompt -> how many were written."""
        ids = torch.tensor([filled(prompt, tokenizer.pad_token_id, left) for prompt in prompts], device=device)
        mask = torch.tensor([filled([1] * len(prompt), 0, left) for prompt in prompts], device=device)
        written = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=tokens, use_cache=True,
                                 min_new_tokens=tokens, pad_token_id=tokenizer.pad_token_id)  # fmt: skip
        return written.shape[1] - (WIDTH if left else 1)

    size, seconds = args.eval_batch_size, []
    while not seconds:
        if gpu:
            torch.cuda.empty_cache()
        try:
            answer(prompts[:size], min(4, given.new_tokens))
            batches = [prompts[i * size : (i + 1) * size] for i in range(given.eval_batches)]
            times = [clock()]
            for batch in batches:
                tokens = answer(batch, given.new_tokens)
                times.append(clock())
            seconds = [end - start for start, end in zip(times, times[1:])]
        except RuntimeError as error:
            if size == 1 or not should_reduce_batch_size(error):
                raise
            size //= 2
            print(f"a batch does not fit the memory: going on with {size}", flush=True)
    return dict(
        gpu_name=torch.cuda.get_device_name() if gpu else "cpu", batch=size, asked_batch=args.eval_batch_size, width=WIDTH,
        new_tokens=tokens, batch_seconds=seconds, examples_per_second=sum(map(len, batches)) / sum(seconds),
        peak_memory_gib=script.peak_memory() / 2**30,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, choices=SCRIPTS)
    parser.add_argument("--data", required=True, help="directory in Spider's layout, or sample")
    parser.add_argument("--model", default="", metavar="DIR", help="a directory with the model's tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="stock-RUN.json stands here; parts that it has are kept")
    parser.add_argument("--part", default="train,eval", help="of train and eval, comma between")
    parser.add_argument("--updates", type=int, default=6, help="that count")
    parser.add_argument("--eval_batches", type=int, default=2, help="that count")
    parser.add_argument("--new_tokens", type=int, default=64, help="of every answer")
    parser.add_argument("--smoke", action="store_true", help="the tiny model, on a CPU")
    given = parser.parse_args()
    parts = given.part.split(",")
    if not set(parts) <= {"train", "eval"}:
        parser.error("--part knows train and eval")
    if given.smoke:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        sys.exit("no GPU is visible: try it with --smoke")
    script = importlib.import_module(given.run)
    args = options_of(script, given.smoke)
    args.model = given.model or args.model
    kind = script.T5Config if hasattr(script, "T5Config") else script.Config
    config = kind(**(script.TINY_CONFIG if given.smoke else script.CONFIG))
    benchmark = spider.load(sample.build() if given.data == "sample" else given.data)
    tokenizer = script.load_tokenizer(args, benchmark)
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"stock-{given.run}.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "bitsandbytes")}
    for part, measure in dict(train=train, eval=evaluate).items():
        if part in parts:
            found = measure(script, args, config, benchmark, tokenizer, given)
            record |= {"run": given.run, "smoke": given.smoke, part: found | dict(versions=versions)}
            write_atomically(path, json.dumps(record, indent=2) + "\n")
    words = [f"{part}, {record[part]['gpu_name']}, batch {record[part]['batch']}: "
             f"{record[part]['examples_per_second']:.2f} examples/s, {record[part]['peak_memory_gib']:.1f} GiB"
             for part in ("train", "eval") if part in record]  # fmt: skip
    print(f"{given.run}, stock | {' | '.join(words)}")


if __name__ == "__main__":
    main()
