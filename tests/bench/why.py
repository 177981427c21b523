"""Is it the training, or QLoRA? One small pretrained model, trained in the ways that the question compares.

    python3 tests/bench/why.py --model SmolLM2-135M --data data/spider --out runs/why
    python3 tests/bench/why.py --model SmolLM2-135M --data data/spider --out runs/why --rows published,full --jobs 2

Each row trains the model on Spider's training questions through the functions of `llama_65b.py`, answers all of dev greedily
and is scored there. `--rows` names some (patterns as `mended-*` too); a row that has its JSON in `--out` is not run again,
and the table shows all that are there. Needs a GPU, but for `--rows untrained` and small `--train_examples`.
"""

import argparse
import fnmatch
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import llama_65b as script  # noqa: E402
from data import spider  # noqa: E402
from data.batches import micro_batches  # noqa: E402
from data.files import write_atomically  # noqa: E402
from data.report import markdown  # noqa: E402
from data.score import interval  # noqa: E402
from data.signals import Stop  # noqa: E402

WIDTH = 512  # to which the published recipe pads and cuts
UPDATE = 32  # examples
FAULTS = {
    "labels": "SQL is laid over the prompt's positions, instead of behind it",
    "padding": "padding to 512 counts in the loss",
    "end": "no end of sequence in the answer",
    "cut": "prompts end at 512 tokens, whatever is cut off",
    "right": "prompts are padded on the right where answers are generated",
}


@dataclass(frozen=True)
class Row:
    """One way to train: `method` is none, full, lora (bf16 base) or qlora (NF4 base)."""

    method: str
    rank: int = 0
    targets: str = ""
    learning_rate: float = 0.0
    epochs: int = 4
    seed: int = 0
    faults: tuple[str, ...] = ()
    schema_first: bool = False
    values: bool = False


def all_rows() -> dict[str, Row]:
    """Every row by its name."""
    whole = Row("full", learning_rate=3e-4)
    rows = {"untrained": Row("none"), "published": replace(whole, faults=tuple(FAULTS))}
    for fault in FAULTS:
        rows[f"only-{fault}-mended"] = replace(whole, faults=tuple(name for name in FAULTS if name != fault))
        rows[f"only-{fault}-left"] = replace(whole, faults=(fault,))
    small, large = dict(rank=8, targets="q_proj,v_proj"), dict(rank=64, targets="all-linear")
    for rate in (1e-4, 3e-4, 1e-3):
        rows[f"full-{rate:g}"] = replace(whole, learning_rate=rate)
    for method in ("lora", "qlora"):
        for rate in (1e-3, 3e-3):
            rows[f"{method}-8-{rate:g}"] = Row(method, learning_rate=rate, **small)
            rows[f"{method}-64-{rate:g}"] = Row(method, learning_rate=rate, **large)
    for name in ("full-0.0003", "lora-64-0.001", "qlora-64-0.001"):
        for seed in (1, 2):
            rows[f"{name}-seed{seed}"] = replace(rows[name], seed=seed)
    rows["full-values"] = replace(whole, values=True)
    rows["full-schema-first"] = replace(whole, schema_first=True)
    rows["full-8-epochs"] = replace(whole, epochs=8)
    return rows


def options(row: Row, given: argparse.Namespace) -> script.Args:
    """The script's options for a row."""
    targets = dict(lora_rank=max(1, row.rank), lora_alpha=32 if row.rank == 8 else 64, lora_targets=row.targets or "all-linear")
    return script.Args(
        model=given.model, epochs=row.epochs, eval_batch_size=128,
        learning_rate=row.learning_rate, lora_dropout=0.0, max_output_tokens=160, gradient_checkpointing=False,
        seed=row.seed, **targets,
    )  # fmt: skip


def build(row: Row, args: script.Args, config, tokenizer, device: torch.device) -> torch.nn.Module:
    """The model of a row, with what trains set to train, as `AnswerLoss` and `generate` want it."""
    base = dict(model=args.model, tiny=False, random_weights=False, seed=row.seed)
    if row.method == "qlora":
        return script.load_model(args, base, config, tokenizer, device)
    dtype = torch.bfloat16 if row.method == "lora" and device.type == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, device_map={"": device})
    if row.method == "lora":
        targets = args.lora_targets if args.lora_targets == "all-linear" else args.lora_targets.split(",")
        how = dict(r=args.lora_rank, lora_alpha=args.lora_alpha, lora_dropout=0.0, target_modules=targets)
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **how))
    model.get_base_model = lambda: model
    return model


def encoded(examples, schemas, row: Row, tokenizer, limit: int) -> dict:
    """The columns of `llama_65b.encode`, with the row's order and its faults of tokens."""
    rows = {name: [getattr(e, name) for e in examples] for name in ("question", "db_id", "values", "sql")}
    if row.schema_first:
        original = script.prompt
        script.prompt = lambda *pair: "\n".join(reversed(original(*pair).split("\n", 1)))
        try:
            columns = script.encode(rows, schemas, tokenizer, limit)
        finally:
            script.prompt = original
    else:
        columns = script.encode(rows, schemas, tokenizer, limit)
    if "cut" in row.faults:
        columns["input_ids"] = [ids[:WIDTH] for ids in columns["input_ids"]]
    if "end" in row.faults:
        columns["labels"] = [ids[:-1] for ids in columns["labels"]]
    return columns | dict(index=[e.index for e in examples])


def collate(rows: list[dict], pad: int, faults: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """A batch of `llama_65b.collate`, with the row's faults of labels."""
    ids = [row["input_ids"] + ([] if "labels" in faults else row["labels"]) for row in rows]
    labels = [row["labels"] if "labels" in faults else [-100] * len(row["input_ids"]) + row["labels"] for row in rows]
    width = max(map(len, [*ids, *labels])) if "padding" not in faults else max(WIDTH, *map(len, [*ids, *labels]))
    filler = pad if "padding" in faults else -100
    full = [sequence + [pad] * (width - len(sequence)) for sequence in ids]
    return dict(input_ids=torch.tensor(full), labels=torch.tensor([s + [filler] * (width - len(s)) for s in labels]))


def right_padded(rows: list[dict], pad: int) -> dict[str, torch.Tensor]:
    """`llama_65b.collate_prompts` with padding between the cue and the answer."""
    ids = [row["input_ids"] for row in rows]
    return dict(input_ids=script.padded(ids, pad), attention_mask=script.padded([[1] * len(s) for s in ids], 0))


def run(name: str, row: Row, given: argparse.Namespace) -> dict:
    """Train and score one row -> its record."""
    args = options(row, given)
    torch.set_float32_matmul_precision("high")
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    device = accelerator.device
    benchmark = spider.load(given.data, values=row.values)
    base = dict(model=args.model, tiny=False, random_weights=False, seed=row.seed)
    config, tokenizer = script.load_config(args, base), script.load_tokenizer(args, benchmark)
    set_seed(row.seed)
    model = build(row, args, config, tokenizer, device)
    examples = benchmark.splits["train"][: given.train_examples or None]
    train = encoded(examples, benchmark.schemas, row, tokenizer, args.max_input_tokens)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=row.method == "full" and device.type == "cuda")
    losses, seconds = [], 0.0
    if row.method != "none":
        began = time.perf_counter()
        losses = fit(model, train, row, args, tokenizer.pad_token_id, device, autocast, given.tokens)
        seconds = time.perf_counter() - began
    every = benchmark.splits["dev"]
    count = given.dev_examples or len(every)
    dev = Dataset.from_dict(encoded([every[i * len(every) // count] for i in range(count)], benchmark.schemas, row, tokenizer,
                                    args.max_input_tokens))  # fmt: skip
    if "right" in row.faults:
        script.collate_prompts = right_padded
    with autocast:
        rows, figures = script.evaluate(model, tokenizer, benchmark, dev, args, accelerator, Stop())
    kept = ("execution_accuracy", "exact_match", "n", "eval_seconds", "by_hardness", "errors")
    return dict(
        row=name, **asdict(row), losses=losses, train_seconds=seconds, examples_seen=row.epochs * len(examples),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        empty=sum(not r["predicted"] for r in rows), first=rows[0]["predicted"], **{key: figures[key] for key in kept},
        right=[r["execution_match"] for r in rows],
    )  # fmt: skip


def parts(rows: list[dict], faults: tuple[str, ...], tokens: int) -> list[list[dict]]:
    """An update's examples, longest first, in parts that fit the memory together."""
    width = max(len(row["input_ids"]) + len(row["labels"]) for row in rows)
    size = max(1, tokens // (max(WIDTH, width) if "padding" in faults else width))
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def fit(model, train: dict, row: Row, args: script.Args, pad: int, device, autocast, tokens: int) -> list[float]:
    """Train -> the loss a target token of each update; a forward pass has at most so many tokens."""
    lengths = [len(a) + len(b) for a, b in zip(train["input_ids"], train["labels"])]
    total = row.epochs * -(-len(lengths) // UPDATE)
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.0, weight_decay=0.0, fused=True)
    answer_loss = script.AnswerLoss(model)
    model.train()
    losses = []
    for update, (some, _) in enumerate(micro_batches(lengths, UPDATE, 1, 1, 0, row.seed, 0, total)):
        for group in optimizer.param_groups:
            group["lr"] = script.learning_rate(args, update, total)
        rows = [dict(input_ids=train["input_ids"][i], labels=train["labels"][i]) for i in some]
        batches = [collate(part, pad, row.faults) for part in parts(rows, row.faults, tokens)]
        targets = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
        loss_sum = torch.zeros((), device=device)
        for batch in batches:
            with autocast:
                loss = answer_loss(**{name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}) / targets
            loss.backward()
            loss_sum += loss.detach()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss_sum)
        if update % 50 == 0:
            print(f"update {update}/{total} | loss {loss_sum.item():.3f}", flush=True)
    return [float(loss) for loss in torch.stack(losses).tolist()]


def table(folder: Path) -> str:
    """What there is, in Markdown."""
    head = (
        "row",
        "faults",
        "rate",
        "execution accuracy (95 %)",
        "exact match",
        "n",
        "empty answers",
        "last loss",
        "training, s",
    )
    lines = [markdown(head), "|---" * len(head) + "|"]
    for name in all_rows():
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        record = json.loads(path.read_text())
        low, high = interval(sum(record["right"]), record["n"])
        loss = f"{statistics.fmean(record['losses'][-20:]):.3f}" if record["losses"] else "-"
        lines.append(markdown((
            name, ", ".join(record["faults"]), f"{record['learning_rate']:g}",
            f"{record['execution_accuracy']:.1%} ({low:.1%} to {high:.1%})", f"{record['exact_match']:.1%}",
            f"{record['n']:,}", f"{record['empty']:,}", loss, f"{record['train_seconds']:.0f}",
        )))  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="directory of SmolLM2-135M, or of another small LLaMA")
    parser.add_argument("--data", required=True, help="directory in Spider's layout")
    parser.add_argument("--out", type=Path, required=True, help="a JSON a row goes here")
    parser.add_argument("--rows", default="*", help="names or patterns, comma between")
    parser.add_argument("--jobs", type=int, default=1, help="rows that run at a time on the one GPU")
    parser.add_argument("--tokens", type=int, default=8000, help="a forward pass; more are faster and take more memory")
    parser.add_argument("--train_examples", type=int, default=0, help="the first so many; 0: all")
    parser.add_argument("--dev_examples", type=int, default=0, help="so many, evenly spaced; 0: all")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    given = parser.parse_args()
    known = all_rows()
    patterns = given.rows.split(",")
    chosen = [name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    if given.list:
        print("\n".join(f"{name}: {row}" for name, row in known.items()))
        return
    given.out.mkdir(parents=True, exist_ok=True)
    waiting = [name for name in chosen if not (given.out / f"{name}.json").exists()]
    if len(waiting) == 1:
        record = run(waiting[0], known[waiting[0]], given)
        write_atomically(given.out / f"{waiting[0]}.json", json.dumps(record) + "\n")
    elif waiting:
        together(waiting, given)
    print(table(given.out))


def together(names: list[str], given: argparse.Namespace) -> None:
    """Run rows in processes of their own, --jobs at a time."""
    running: dict[str, subprocess.Popen] = {}
    while names or running:
        while names and len(running) < given.jobs:
            name = names.pop(0)
            words = [sys.executable, __file__, "--rows", name]
            for option in ("model", "data", "out", "tokens", "train_examples", "dev_examples"):
                words += [f"--{option}", str(getattr(given, option))]
            with (given.out / f"{name}.log").open("w") as log:
                running[name] = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
        time.sleep(0.2)
        for name, process in list(running.items()):
            if process.poll() is not None:
                print(f"{name}: {'done' if process.returncode == 0 else f'failed, see {name}.log'}", flush=True)
                del running[name]


if __name__ == "__main__":
    main()
