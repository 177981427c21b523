"""Is it the training, or QLoRA? One small pretrained model, trained in the ways that the question compares.

    python3 tests/bench/why.py --records tests/bench/why.jsonl --picture why.png
    python3 tests/bench/why.py --model SmolLM2-135M --data data/spider --out runs/why --jobs 2 --compile
    python3 tests/bench/why.py --model SmolLM2-135M --data data/spider --out runs/why --rows "published,*-left"

The first prints the tables, and draws the picture, of the rows that are kept. The others train the model on Spider's training
questions through the functions of `llama_65b.py`, answer all of dev greedily and score it, once a row. `--rows` names some of
them, in the order in which they are to be run; `--list` says what each is. A row that stands in `--out` or in `--records` is
not run again, and what is new is added to `--records`: a short session does a part. Needs a GPU, but for a few
`--train_examples`.
"""

import argparse
import fnmatch
import json
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from compare import gap  # noqa: E402

import llama_65b as script  # noqa: E402
from data.answers.score import interval  # noqa: E402
from data.benchmark import spider  # noqa: E402
from data.benchmark.prompt import prompt  # noqa: E402
from data.benchmark.schema import Benchmark  # noqa: E402
from data.common.files import write_atomically  # noqa: E402
from data.report.curves import COLOURS, GREY, markdown, write_picture  # noqa: E402
from data.run.signals import Stop  # noqa: E402
from data.training import batches  # noqa: E402
from data.training.batches import epoch_updates, grouped, shared_tokens  # noqa: E402
from data.training.variation import vary  # noqa: E402
from data.with_torch.memory import compile_layers  # noqa: E402
from data.with_torch.search import Answers  # noqa: E402

WIDTH = 512  # to which the published recipe pads and cuts
FAULTS = {
    "labels": "SQL is laid over the prompt's positions, instead of behind it",
    "padding": "padding to 512 counts in the loss",
    "end": "no end of sequence in the answer",
    "cut": "prompts end at 512 tokens, whatever is cut off",
    "right": "prompts are padded to 512 on the right where answers are generated",
}
SMALL, LARGE = dict(rank=8, alpha=32, targets="q_proj,v_proj"), dict(rank=64, alpha=64, targets="all-linear")


@dataclass(frozen=True)
class Row:
    """One way to train: `method` is none, full (float32 weights), lora (bf16 base) or qlora (NF4 base), all bf16 autocast."""

    method: str
    learning_rate: float = 0.0
    rank: int = 0
    alpha: int = 0
    targets: str = ""
    epochs: int = 8
    update: int = 128  # examples
    seed: int = 0
    faults: tuple[str, ...] = ()
    order: str = "shared"  # schema first, shared in a batch; schema: first, not shared; question: first; twice: and behind
    values: bool = False
    others: bool = False  # train_others.json, too
    plain: bool = False  # SQL in one spelling
    full: bool = False  # columns with their tables' names and alike in schema and SQL, to the token: --full_names
    together: int = batches.GROUP_SIZE  # questions of a shared schema side by side
    varied: float = 0.0  # each epoch columns in another order, without up to this share of what the answer does not need


PLAIN = Row("full", order="question", plain=True)
# the ways to train that the answer rests on: what is said of each, how, and learning rates of which the better counts
STEMS: dict[str, tuple[str, Row, tuple[float, ...]]] = {
    "full": ("all weights", Row("full"), (4e-4, 8e-4)),
    "together-12": ("the same, 12 questions of a schema side by side", Row("full", together=12), (4e-4,)),
    "together-16": ("the same, 16 side by side", Row("full", together=16), (4e-4,)),
    "lora-64": ("LoRA in bf16, rank 64, all linear layers", Row("lora", **LARGE), (1e-3, 2e-3)),
    "qlora-64": ("QLoRA in NF4, rank 64, all linear layers", Row("qlora", **LARGE), (1e-3, 2e-3)),
    "lora-8": ("LoRA in bf16, rank 8, q and v", Row("lora", **SMALL), (1e-3, 3e-3)),
    "qlora-8": ("QLoRA in NF4, rank 8, q and v", Row("qlora", **SMALL), (1e-3, 3e-3)),
    "values": ("all weights, with values", Row("full", values=True), (4e-4, 8e-4)),
    "long": ("all weights, 24 epochs, train_others", Row("full", epochs=24, others=True), (6e-4,)),
    "long-values": ("the same, with values", Row("full", epochs=24, others=True, values=True), (6e-4,)),
    "question": ("all weights, question before schema", Row("full", order="question"), (4e-4,)),
    "question-values": ("the same, with values", Row("full", order="question", values=True), (4e-4,)),
    "plain": ("all weights, SQL in one spelling", Row("full", plain=True), (4e-4,)),
    "plain-values": ("the same, with values", Row("full", plain=True, values=True), (4e-4,)),
    "plain-question": ("one spelling, question before schema", PLAIN, (4e-4,)),
    "plain-twice": ("the same, question behind the schema, too", replace(PLAIN, order="twice"), (4e-4,)),
    "plain-question-values": ("one spelling, question before schema, values", replace(PLAIN, values=True), (2e-4, 4e-4)),
    "plain-varied-values": (
        "the same, another part of the schema each epoch",
        replace(PLAIN, values=True, varied=0.4),
        (4e-4,),
    ),
    "plain-twice-varied-values": (
        "the same, question behind the schema, too",
        replace(PLAIN, order="twice", values=True, varied=0.4),
        (4e-4,),
    ),
    "plain-twice-varied-values-full": (
        "the same, full names in schema and SQL",
        replace(PLAIN, order="twice", values=True, varied=0.4, full=True),
        (4e-4,),
    ),
    "recipe": (
        "the scripts' default: as above, but schema first and shared",
        Row("full", plain=True, full=True, values=True, varied=0.4),
        (4e-4,),
    ),
    "recipe-qlora-64": (
        "the same in NF4, rank 64, all linear layers",
        Row("qlora", **LARGE, plain=True, full=True, values=True, varied=0.4),
        (2e-3,),
    ),
    "plain-twice-varied-values-full-12": (
        "the same, 12 epochs",
        replace(PLAIN, order="twice", values=True, varied=0.4, full=True, epochs=12),
        (4e-4,),
    ),
}
SEEDS = (0, 1, 2)


def all_rows() -> dict[str, Row]:
    """Every row by its name; `STEM-seed1` has the better of its stem's learning rates, which is known once those are run."""
    mended = Row("full", 3e-4, epochs=2, update=64, order="question")
    rows = {"untrained": Row("none", order="question"), "published": replace(mended, faults=tuple(FAULTS))}
    for fault in FAULTS:
        rows[f"{fault}-mended"] = replace(mended, faults=tuple(name for name in FAULTS if name != fault))
    for fault in FAULTS:
        rows[f"{fault}-left"] = replace(mended, faults=(fault,))
    rows |= {"all-mended": mended, "schema-first": replace(mended, order="schema"), "shared": replace(mended, order="shared")}
    for stem, (_, row, rates) in STEMS.items():
        rows |= {f"{stem}-{rate:g}": replace(row, learning_rate=rate) for rate in rates}
        rows |= {f"{stem}-seed{seed}": replace(row, seed=seed) for seed in SEEDS[1:]}
    return rows


# ------------------------------------------------------------------------------------------------------------ one row


@cache
def benchmark_of(data: str, others: bool, values: bool, plain: bool, full: bool) -> Benchmark:
    return spider.load(data, train_others=others, values=values, plain_sql=plain, full_names=full)


def question_twice(question: str, *rest) -> tuple[str, str]:
    """The prompt with the question again behind the schema: arguments as of `data.benchmark.prompt.prompt`."""
    return "", f"{prompt(question, *rest)}\n{' '.join(question.split())}"


@cache
def columns(row: Row, split: str, data: str, model: str, epoch: int) -> dict[str, list]:
    """What `llama_65b.encode` makes of a split for a row (of which only the prompt counts), with numbers and databases."""
    benchmark = benchmark_of(data, row.others, row.values, row.plain, row.full)
    if split == "train":
        benchmark = vary(benchmark, row.varied, 1, epoch, batches.GROUP_SIZE if row.order == "shared" else 1)
    examples, schemas = benchmark.splits[split], benchmark.schemas
    rows = {name: [getattr(e, name) for e in examples] for name in ("index", "question", "db_id", "values", "sql")}
    tokenizer = script.load_tokenizer(script.Args(model=model))
    original = script.question_first
    script.question_first = question_twice if row.order == "twice" else original
    try:
        behind = row.order in ("schema", "shared")
        encoded = script.encode(rows, schemas, tokenizer, script.Args.max_input_tokens, behind)
    finally:
        script.question_first = original
    return dict(index=rows["index"], db_id=rows["db_id"]) | encoded


def encoded(row: Row, split: str, given: argparse.Namespace, count: int, epoch: int = 0) -> list[dict]:
    """`count` examples of a split, evenly spaced (0: all), with the row's faults of tokens."""
    kept = Row("", order=row.order, values=row.values, others=row.others, plain=row.plain, full=row.full,
               varied=row.varied)  # fmt: skip
    each = columns(kept, split, given.data, given.model, epoch)
    whole = len(each["index"])
    count = count or whole
    found = [{name: values[i * whole // count] for name, values in each.items()} for i in range(count)]
    for example in found:
        if row.order != "shared":
            example["shared"] = 0
        if "cut" in row.faults:
            example["input_ids"] = example["input_ids"][:WIDTH]
        if "end" in row.faults:
            example["labels"] = example["labels"][:-1]
    return found


def another_epoch(row: Row, given: argparse.Namespace, epoch: int) -> list[dict]:
    """The training questions with the schemas that an epoch varies."""
    columns.cache_clear()  # of the epoch before
    return encoded(row, "train", given, given.train_examples, epoch)


def later_epochs(row: Row, given: argparse.Namespace) -> Iterator[list[dict]]:
    """`another_epoch` for each but the first, made ahead in another process, while this one trains."""
    pool = ProcessPoolExecutor(1, get_context("spawn"))
    made = pool.map(partial(another_epoch, row, given), range(1, row.epochs))
    pool.shutdown(wait=False)  # once all are made
    return made


def collate(rows: list[dict], pad: int, faults: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """A batch of `llama_65b.collate`, with the row's faults of labels."""
    if not {"labels", "padding"} & set(faults):
        return script.collate(rows, pad)
    behind = "labels" not in faults
    ids = [row["input_ids"] + (row["labels"] if behind else []) for row in rows]
    labels = [([-100] * len(row["input_ids"]) if behind else []) + row["labels"] for row in rows]
    width = -(-max(map(len, [*ids, *labels])) // 16) * 16
    filler = -100
    if "padding" in faults:
        width, filler = max(WIDTH, width), pad
    batch = {
        name: torch.tensor([sequence + [fill] * (width - len(sequence)) for sequence in sequences])
        for name, sequences, fill in (("input_ids", ids, pad), ("labels", labels, filler))
    }
    positions = torch.arange(width).expand(len(rows), -1)
    return batch | dict(position_ids=positions, segments=torch.zeros_like(positions))


def right_padded(model, rows: list[dict], args: script.Args, tokenizer, grammars: None, enough: object) -> list[Answers]:
    """`llama_65b.write` with padding to the published width between the cue and the answer."""
    ids = [row["input_ids"] for row in rows]
    width, pad, end = max(WIDTH, *map(len, ids)), tokenizer.pad_token_id, tokenizer.eos_token_id
    batch = dict(
        input_ids=torch.tensor([sequence + [pad] * (width - len(sequence)) for sequence in ids], device=model.device),
        attention_mask=torch.tensor(
            [[1] * len(sequence) + [0] * (width - len(sequence)) for sequence in ids], device=model.device
        ),
    )
    how = dict(max_new_tokens=args.max_output_tokens, do_sample=False, pad_token_id=pad, eos_token_id=end)
    answers = model.generate(**batch, **how)[:, width:].tolist()
    whole = [answer[: answer.index(end) + 1] if end in answer else answer for answer in answers]
    return [[(answer, 0.0)] for answer in whole]


def build(row: Row, args: script.Args, config, tokenizer, device: torch.device) -> torch.nn.Module:
    """The model of a row, with what trains set to train, as `AnswerLoss` and `generate` want it."""
    if row.method == "qlora":
        base = dict(model=args.model, tiny=False, random_weights=False, seed=row.seed, base_16bit=False)
        return script.load_model(args, base, config, tokenizer, device)
    dtype = torch.bfloat16 if row.method == "lora" and device.type == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, device_map={"": device})
    if row.method == "lora":
        targets = args.lora_targets if args.lora_targets == "all-linear" else args.lora_targets.split(",")
        how = dict(r=args.lora_rank, lora_alpha=args.lora_alpha, lora_dropout=0.0, target_modules=targets)
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **how))
    model.get_base_model = lambda: model
    return model


def run(name: str, row: Row, given: argparse.Namespace) -> dict:
    """Train and score one row -> its record."""
    args = script.Args(
        model=given.model, epochs=row.epochs, eval_batch_size=given.eval_batch_size, learning_rate=row.learning_rate,
        lora_rank=max(1, row.rank), lora_alpha=row.alpha, lora_dropout=0.0, lora_targets=row.targets or "all-linear",
        max_output_tokens=160, num_beams=1, seed=row.seed,
    )  # fmt: skip
    torch.set_float32_matmul_precision("high")
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    gpu, device = torch.cuda.is_available(), accelerator.device
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    config = script.load_config(args, dict(model=args.model, tiny=False, random_weights=False, base_16bit=False))
    tokenizer = script.load_tokenizer(args)
    set_seed(row.seed)
    model = build(row, args, config, tokenizer, device)
    train = encoded(row, "train", given, given.train_examples)
    losses, seconds = [], 0.0
    if row.method != "none":
        began = time.perf_counter()
        losses = fit(model, train, row, args, tokenizer.pad_token_id, device, given)
        seconds = time.perf_counter() - began
    memory = script.peak_memory() / 2**30
    if row.method == "lora":
        model = model.merge_and_unload()  # the same sums, with fewer steps a token
        model.get_base_model = lambda: model
    if gpu:
        model.to(torch.bfloat16)  # as a full fine-tune is stored; the others compute in it anyway
        torch.cuda.empty_cache()
    if given.keep and row.method != "qlora":
        model.save_pretrained(given.out / name)
        tokenizer.save_pretrained(given.out / name)
    dev = Dataset.from_list(encoded(row, "dev", given, given.dev_examples))
    original = script.write
    script.write = right_padded if "right" in row.faults else original
    try:
        benchmark = benchmark_of(given.data, row.others, row.values, row.plain, row.full)
        rows, figures = script.evaluate(model, tokenizer, benchmark, dev, args, accelerator, Stop())
    finally:
        script.write = original
    write_atomically(given.out / f"{name}.predicted.sql", "".join(r["predicted"] + "\n" for r in rows))
    kept = ("execution_accuracy", "exact_match", "n", "eval_seconds")
    return dict(
        row=name, **asdict(row), model=Path(args.model).name, train_examples=len(train), updates=len(losses),
        first_loss=losses[0] if losses else None, last_loss=statistics.fmean(losses[-20:]) if losses else None,
        train_seconds=seconds, gpu=torch.cuda.get_device_name() if gpu else "cpu", memory_gib=memory,
        empty=sum(not r["predicted"] for r in rows), errors={name: error["n"] for name, error in figures["errors"].items()},
        right="".join(str(int(r["execution_match"])) for r in rows), date=time.strftime("%Y-%m-%d"),
        **{key: figures[key] for key in kept},
    )  # fmt: skip


def parts(rows: list[dict], faults: tuple[str, ...], tokens: int) -> list[list[dict]]:
    """An update's examples in parts of one size that fit the memory."""
    lengths = [len(row["input_ids"]) + len(row["labels"]) for row in rows]
    schemas = [(row["db_id"], row["shared"]) for row in rows]
    padded = max(WIDTH * ("padding" in faults), *lengths) * len(rows)
    whole = padded if {"labels", "padding"} & set(faults) else sum(shared_tokens(range(len(rows)), lengths, schemas))
    size = -(-len(rows) // -(-whole // tokens))
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def fit(model, train: list[dict], row: Row, args: script.Args, pad: int, device, given: argparse.Namespace) -> list[float]:
    """Train -> the loss a target token of each update."""
    updates = -(-len(train) // row.update)  # an epoch
    total = row.epochs * updates
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.0, weight_decay=0.0, fused=True)
    answer_loss = script.AnswerLoss(model)
    autocast = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
    model.train()
    layers = model.get_base_model().model.layers if given.compile else []
    torch._dynamo.config.recompile_limit = 64  # a few for each kind of row that one process trains
    compile_layers(layers)
    losses, began = [], time.perf_counter()
    batches.GROUP_SIZE = row.together
    later = later_epochs(row, given) if row.varied else None
    for update in range(total):
        epoch, place = divmod(update, updates)
        if later and epoch and not place:
            train = next(later)
        if not place:
            lengths = [len(example["input_ids"]) + len(example["labels"]) for example in train]
            names = [example["db_id"] if example["shared"] else number for number, example in enumerate(train)]
            schemas = list(zip(names, (example["shared"] for example in train)))
            order = epoch_updates(lengths, schemas, row.update, row.seed, epoch)
        some = [i for group in grouped(order[place], names) for i in group]  # parts of an update hold whole schemas
        for group in optimizer.param_groups:
            group["lr"] = script.learning_rate(args, update, total)
        passes = [collate(part, pad, row.faults) for part in parts([train[i] for i in some], row.faults, given.tokens)]
        targets = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in passes)
        loss_sum = torch.zeros((), device=device)
        for batch in passes:
            with autocast:
                loss = answer_loss(**{name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}) / targets
            loss.backward()
            loss_sum += loss.detach()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss_sum)
        if update % 50 == 0 or update == total - 1:
            print(f"update {update}/{total} | loss {loss_sum.item():.3f} | {time.perf_counter() - began:.1f} s", flush=True)
    for layer in layers:  # decoding has other shapes at every step
        layer._compiled_call_impl = None
    return torch.stack(losses).tolist()


# ----------------------------------------------------------------------------------------------------------- all rows


def work(names: list[str], given: argparse.Namespace) -> None:
    """Run the rows that no other process has claimed, one after another."""
    known, names = all_rows(), list(names)
    while names:
        name = names.pop(0)
        row = known[name]
        stem = name.rpartition("-seed")[0]
        if stem:
            rates = [f"{stem}-{rate:g}" for rate in STEMS[stem][2]]
            records = read(given)
            if missing := [rate for rate in rates if rate not in records]:
                if all((given.out / f"{rate}.claim").exists() for rate in missing) or set(missing) & set(names):
                    names.append(name)  # another process is at it
                    time.sleep(1)
                else:
                    print(f"{name} needs {', '.join(missing)} first", flush=True)
                continue
            row = replace(row, learning_rate=group(records, stem)[0]["learning_rate"])
        try:
            (given.out / f"{name}.claim").touch(exist_ok=False)
        except FileExistsError:
            continue
        print(f"---- {name}", flush=True)
        try:
            record = run(name, row, given)
        except Exception:  # the others go on
            traceback.print_exc()
            (given.out / f"{name}.claim").unlink()
            continue
        write_atomically(given.out / f"{name}.json", json.dumps(record) + "\n")
        print(f"{name}: {record['execution_accuracy']:.1%} of {record['n']:,}, {record['train_seconds']:.0f} s of training, "
              f"{record['eval_seconds']:.0f} s of answering, {record['memory_gib']:.1f} GiB", flush=True)  # fmt: skip


def spread(names: list[str], given: argparse.Namespace) -> None:
    """Run the rows in --jobs processes a GPU, and say what each has done."""
    gpus = max(1, torch.cuda.device_count())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
    workers = []
    for number in range(min(len(names), given.jobs * gpus)):
        words = [sys.executable, __file__, *sys.argv[1:], "--rows", ",".join(names), "--worker"]
        environment = os.environ | dict(CUDA_VISIBLE_DEVICES=visible[number % gpus])
        with (given.out / f"worker{number}.log").open("w") as log:
            workers.append(subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT))
    for worker in workers:
        worker.wait()


def read(given: argparse.Namespace) -> dict[str, dict]:
    """The records that are there, in the order of the rows; `right` is a digit for each dev example."""
    lines = given.records.read_text().splitlines() if given.records and given.records.exists() else []
    lines += [path.read_text() for path in sorted(given.out.glob("*.json"))] if given.out else []
    found = {record["row"]: record for record in map(json.loads, lines)}
    return {name: found[name] for name in all_rows() if name in found}


def table(records: dict[str, dict]) -> str:
    """All records, a line each, in Markdown."""
    head = ("row", "faults", "execution accuracy (95 %)", "exact match", "n", "empty answers", "first loss", "last loss",
            "training, s")  # fmt: skip
    lines = [markdown(head), "|---" * len(head) + "|"]
    for name, record in records.items():
        low, high = interval(record["right"].count("1"), record["n"])
        cells = (name, ", ".join(record["faults"]), f"{record['execution_accuracy']:.1%} ({low:.1%} to {high:.1%})",
                 f"{record['exact_match']:.1%}", f"{record['n']:,}", f"{record['empty']:,}",
                 *("-" if record[loss] is None else f"{record[loss]:.3f}" for loss in ("first_loss", "last_loss")),
                 f"{record['train_seconds']:.0f}")  # fmt: skip
        lines.append(markdown(cells))
    return "\n".join(lines)


def group(records: dict[str, dict], stem: str) -> list[dict]:
    """The records of a way to train, by seed, at the one of its learning rates that is better on dev with seed 0."""
    there = [records[name] for rate in STEMS[stem][2] if (name := f"{stem}-{rate:g}") in records]
    if not there:
        return []
    best = max(there, key=lambda record: record["execution_accuracy"])
    others = [records[name] for seed in SEEDS[1:] if (name := f"{stem}-seed{seed}") in records]
    return [best, *(record for record in others if record["learning_rate"] == best["learning_rate"])]


PAIRS = (
    ("full", "together-12"),
    ("full", "together-16"),
    ("full", "lora-64"),
    ("lora-64", "qlora-64"),
    ("lora-8", "qlora-8"),
    ("lora-8", "lora-64"),
    ("full", "values"),
    ("long", "long-values"),
    ("full", "question"),
    ("question", "question-values"),
    ("full", "plain"),
    ("question", "plain-question"),
    ("plain", "plain-values"),
    ("plain-question", "plain-twice"),
    ("plain-question", "plain-question-values"),
    ("plain-question-values", "plain-varied-values"),
    ("plain-varied-values", "plain-twice-varied-values"),
    ("plain-twice-varied-values", "plain-twice-varied-values-full"),
    ("plain-twice-varied-values-full", "plain-twice-varied-values-full-12"),
)


def summary(records: dict[str, dict]) -> str:
    """The ways to train at their better learning rate, over seeds, and differences, in Markdown."""
    groups = {stem: group(records, stem) for stem in STEMS}
    lacking = {
        stem: [f"{rate:g}" for rate in rates if f"{stem}-{rate:g}" not in records] for stem, (_, _, rates) in STEMS.items()
    }
    head = ("trained", "learning rate", "seeds", "execution accuracy", "by seed", "exact match", "training, s")
    lines = [markdown(head), "|---" * len(head) + "|"]
    for stem, found in groups.items():
        if found:
            shares = [record["execution_accuracy"] for record in found]
            exact = statistics.fmean(record["exact_match"] for record in found)
            seconds = statistics.median(record["train_seconds"] for record in found)
            rate = f"{found[0]['learning_rate']:g}" + (f" ({', '.join(lacking[stem])} not run)" if lacking[stem] else "")
            cells = (STEMS[stem][0], rate, len(found), f"{statistics.fmean(shares):.1%}",
                     ", ".join(f"{share:.1%}" for share in shares), f"{exact:.1%}", f"{seconds:.0f}")  # fmt: skip
            lines.append(markdown(cells))
    head = ("difference", "points (95 %)", "seeds")
    lines += ["", markdown(head), "|---" * len(head) + "|"]
    # each way at its better rate, which is known where all of its rates were run; the rest at equal settings
    pairs = [
        (f"{STEMS[first][0]} -> {STEMS[second][0]}", groups[first], groups[second])
        for first, second in PAIRS
        if not lacking[first] and not lacking[second]
    ]
    single = [("all-mended", f"{fault}-left") for fault in FAULTS] + [("all-mended", "schema-first"), ("all-mended", "shared")]
    single += [(name, f"q{name}") for name in records if name.startswith("lora") and "seed" not in name]
    pairs += [(f"{a} -> {b}", [records[a]], [records[b]]) for a, b in single if a in records and b in records]
    for text, ones, others in pairs:
        if ones and others:
            lines.append(markdown((text, gap(ones, others), f"{len(ones)} and {len(others)}")))
    return "\n".join(lines)


def picture(records: dict[str, dict], path: Path) -> None:
    """Execution accuracy with 95 % intervals, a line for each row, from the faults to the ways to train."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines: list[tuple[str, list[dict], str]] = []
    for name, label in (("untrained", "untrained"), ("published", "the published recipe, all five faults")):
        lines += [(label, [records[name]], GREY)] if name in records else []
    for kind, text, colour in (("mended", "only mended", COLOURS[1]), ("left", "all mended but", COLOURS[4])):
        for fault in FAULTS:
            if record := records.get(f"{fault}-{kind}"):
                lines.append((f"{text}: {fault}", [record], colour))
    for name, label in (("all-mended", "all mended, 2 epochs"), ("schema-first", "the same, schema before question"),
                        ("shared", "the same, questions share their schema")):  # fmt: skip
        lines += [(label, [records[name]], COLOURS[2])] if name in records else []
    lines += [(text, found, COLOURS[0]) for stem, (text, _, _) in STEMS.items() if (found := group(records, stem))]
    figure = Figure(figsize=(9, 0.9 + 0.29 * len(lines)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for place, (label, found, colour) in enumerate(lines):
        share = statistics.fmean(record["execution_accuracy"] for record in found)
        low, high = interval(round(share * found[0]["n"]), found[0]["n"])
        axis.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=2.2, solid_capstyle="butt", alpha=0.45)
        axis.plot(100 * share, place, "o", color=colour, markersize=6)
        if len(found) > 1:
            axis.plot([100 * r["execution_accuracy"] for r in found], [place] * len(found), "|", color=colour, markersize=9)
        axis.annotate(f"{share:.1%}", (100 * high, place), xytext=(5, 0), textcoords="offset points", va="center",
                      fontsize=9, color="#333333")  # fmt: skip
    axis.set_yticks(range(len(lines)), [label for label, _, _ in lines], fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.margins(x=0.12)
    axis.xaxis.set_major_formatter("{x:.0f} %")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)
    n = max(record["n"] for record in records.values())
    axis.set_title(f"execution accuracy on {n:,} dev examples, 95 % intervals", loc="left", fontsize=10, color="#333333")
    write_picture(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, metavar="FILE", help="rows that are kept, a line each; new ones are added")
    parser.add_argument("--model", help="directory of SmolLM2-135M, or of another small LLaMA")
    parser.add_argument("--data", help="directory in Spider's layout")
    parser.add_argument("--out", type=Path, help="a JSON and the predictions of each row go here, and why.png")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="default: why.png in --out")
    parser.add_argument("--rows", default="*", help="names or patterns, comma between")
    parser.add_argument("--jobs", type=int, default=1, help="rows that run at a time on each visible GPU")
    parser.add_argument("--tokens", type=int, default=16000, help="a forward pass; more are faster and take more memory")
    parser.add_argument("--compile", action="store_true", help="compile the layers for training (a minute, once a machine)")
    parser.add_argument("--eval_batch_size", type=int, default=256)
    parser.add_argument("--train_examples", type=int, default=0, help="so many, evenly spaced; 0: all")
    parser.add_argument("--dev_examples", type=int, default=0, help="so many, evenly spaced; 0: all")
    parser.add_argument("--keep", action="store_true", help="keep each row's model in --out (not QLoRA's): answers.py asks it")
    parser.add_argument("--list", action="store_true", help="print the rows")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    known = all_rows()
    # in the order in which they are named: the first run first
    chosen = list(dict.fromkeys(name for pattern in given.rows.split(",") for name in fnmatch.filter(known, pattern)))
    if given.list:
        print("\n".join(f"{name}: {known[name]}" for name in chosen))
        return
    if given.worker:
        return work(chosen, given)
    waiting = []
    if given.out:
        if not given.model or not given.data:
            parser.error("rows are run with --model and --data")
        given.out.mkdir(parents=True, exist_ok=True)
        waiting = [name for name in chosen if name not in read(given)]
        for claim in given.out.glob("*.claim"):
            claim.unlink()
        spread(waiting, given)
    if records := read(given):
        print(f"{table(records)}\n\n{summary(records)}")
        if path := given.picture or (given.out and given.out / "why.png"):
            picture(records, path)
        if given.records:
            write_atomically(given.records, "".join(json.dumps(record) + "\n" for record in records.values()))
    for name in waiting:
        if name not in records:
            print(f"{name} was not done: see the worker's log in {given.out}")


if __name__ == "__main__":
    main()
