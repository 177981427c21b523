"""Pretrained models of some size, trained and asked by llama_65b.py itself: what each option brings on Spider's dev set.

    python3 tests/bench/real.py --model 1.5b=DIR --model 0.5b=DIR --data data/spider --out runs/real
    python3 tests/bench/real.py --model 1.5b=DIR --data data/spider --out runs/real --rows "1.5b-default*,1.5b-bf16"
    python3 tests/bench/real.py --records tests/bench/real.jsonl

A row is a run of the script with its options alone. It is trained, answers all of dev, constrained and greedily, and is asked
again in each of `--ways`. Rows run side by side, one a visible GPU. Each run's folder stands in `--out`, with its predictions.
What stands there is not run again, so that a part can be run by itself. `--list` prints the rows. The third command prints the
table of what is kept; with `--out`, what is new is added to it. `--smoke` tries it all on a CPU, with `--tiny` for a model.
"""

import argparse
import fnmatch
import json
import os
import queue
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from compare import DO_NOT_RUN, gap  # noqa: E402

from data.answers.score import interval  # noqa: E402
from data.common.files import write_atomically  # noqa: E402
from data.report.curves import markdown  # noqa: E402

# what else a row is called, and its options; again: forward passes of other sizes, or another GPU, make another model
RUNS = {"": "", "-seed1": "--seed 1", "-seed2": "--seed 2", "-again": ""}
# what a row is called, and its options beside the defaults
OPTIONS = {
    "default": "",
    "bf16": "--base_16bit",
    "rate-2e-4": "--learning_rate 2e-4",
    "rate-5e-4": "--learning_rate 5e-4",
    "rate-2e-3": "--learning_rate 2e-3",
    "bf16-rate-5e-4": "--base_16bit --learning_rate 5e-4",
    "rank-8": "--lora_rank 8",
    "rank-8-qv": "--lora_rank 8 --lora_targets q_proj,v_proj",
    "rank-64": "--lora_rank 64 --lora_alpha 64",
    "rank-64-bf16-rate-2e-3": "--lora_rank 64 --lora_alpha 64 --base_16bit --learning_rate 2e-3",
    "epochs-5": "--epochs 5",
    "epochs-20": "--epochs 20",
    "not-shared": "--no-share_schema",
    "not-varied": "--vary_schema 0",
    "no-values": "--no-values",
    "short-names": "--no-full_names",
    "as-written": "--no-full_names --no-plain_sql",
    "others": "--train_others",
    "published": "--published --batch_size 0 --eval_batch_size 128",
    "best": "--base_16bit --lora_rank 64 --lora_alpha 64 --train_others --no-share_schema",
}
BESIDE = {"bf16-rate-5e-4": "rate-5e-4"}  # what a row is compared with; the others: the default
# how a trained model is asked, and the options of that; the first is what its training ends with
WAYS = {"constrained": "--num_beams 1", "free": "--num_beams 1 --no-constrained"}
WAYS |= {count: f"--num_beams {count} --no-back_translation" for count in ("4", "8")}
WAYS |= {f"{count}-judged": f"--num_beams {count}" for count in ("4", "8")}  # by back-translation
KEPT = ("method", "trainable_parameters", "parameters", "gpu_name", "updates", "examples_seen", "train_seconds",
        "train_examples_per_second", "peak_memory_gib", "execution_accuracy", "exact_match", "n", "eval_seconds")  # fmt: skip


def rows_of(models: list[str]) -> dict[str, list[str]]:
    """Every row by its name, with its options."""
    return {f"{model}-{name}{end}": [*options.split(), *seed.split()]
            for model in models for name, options in OPTIONS.items() for end, seed in RUNS.items()}  # fmt: skip


def call(words: list[str], log: Path, gpu: str) -> None:
    """Run llama_65b.py with its output in a file. Raises RuntimeError where it fails, with its last line."""
    with log.open("w") as file:
        command = [sys.executable, "llama_65b.py", *words]
        code = subprocess.run(command, cwd=ROOT, env=os.environ | dict(CUDA_VISIBLE_DEVICES=gpu), stdout=file, stderr=file)
    if code.returncode:
        raise RuntimeError(f"exit code {code.returncode}, see {log}: {(log.read_text().splitlines() or [''])[-1]}")


def record_of(folder: Path, row: str, way: str, options: list[str]) -> dict:
    """What a run's folder says of how its model answers."""
    result = json.loads((folder / "result.json").read_text())
    answers = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    by_hardness = {level: [answer["execution_match"] for answer in answers if answer["hardness"] == level]
                   for level in sorted({answer["hardness"] for answer in answers})}  # fmt: skip
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if line["event"] == "update"]
    return dict(
        row=row, way=way, options=options, **{name: result[name] for name in KEPT},
        errors=Counter(answer["error"] for answer in answers if answer["error"]),
        hardness={level: [sum(map(bool, right)), len(right)] for level, right in by_hardness.items()},
        losses=[losses[0], statistics.fmean(losses[-20:])] if losses else None,
        right="".join(str(int(answer["execution_match"])) for answer in answers), date=time.strftime("%Y-%m-%d"),
    )  # fmt: skip


def run(name: str, options: list[str], given: argparse.Namespace, gpus: queue.SimpleQueue) -> None:
    """Train a row, unless that is done, and ask it in each way that is not done, on a GPU of `gpus` that is free."""
    gpu, out, tiny = gpus.get(), given.out / name, ["--tiny"] * given.smoke
    try:
        for way in ("constrained", *(way for way in given.ways.split(",") if way != "constrained")):
            path, folder = given.out / f"{name}.{way}.json", out if way == "constrained" else given.out / f"{name}.{way}"
            if path.exists():
                continue
            trained = (folder / "last").exists()  # by a run whose evaluation has failed
            if not trained:
                shutil.rmtree(folder, ignore_errors=True)
            if way == "constrained":
                model = tiny or ["--model", given.models[name.partition("-")[0]]]
                words = [*model, *options, "--eval_every", "0", "--save_every", "0", *["--resume"] * trained]
            else:
                words = ["--eval_only", "--model", str(out), *tiny]
            words += [*WAYS[way].split(), *given.options.split()]
            words += ["--data", given.data, "--processes", "1", "--out", str(folder)]
            began = time.monotonic()
            call(words, path.with_suffix(".log"), gpu)
            record = record_of(folder, name, way, [*options, *given.options.split()])
            write_atomically(path, json.dumps(record) + "\n")
            print(f"{name}, {way}: {record['execution_accuracy']:.1%}, exact match {record['exact_match']:.1%}, "
                  f"{dict(record['errors'])}, {time.monotonic() - began:.0f} s in all", flush=True)  # fmt: skip
    finally:
        gpus.put(gpu)


def spread(rows: dict[str, list[str]], given: argparse.Namespace) -> int:
    """Run rows, one at a time on each visible GPU -> how many failed."""
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout if shutil.which("nvidia-smi") else ""
    there = ",".join(str(number) for number in range(len(listed.splitlines())))
    free = [""] if given.smoke else os.environ.get("CUDA_VISIBLE_DEVICES", there).split(",")
    gpus: queue.SimpleQueue[str] = queue.SimpleQueue()
    for gpu in free:
        gpus.put(gpu)
    with ThreadPoolExecutor(len(free)) as pool:
        made = {name: pool.submit(run, name, options, given, gpus) for name, options in rows.items()}
    failed = {name: error for name, future in made.items() if (error := future.exception())}
    for name, error in failed.items():
        print(f"{name}: {error}", flush=True)
    return len(failed)


def read(given: argparse.Namespace) -> dict[tuple[str, str], dict]:
    """The records that are there, by row and way."""
    lines = given.records.read_text().splitlines() if given.records and given.records.exists() else []
    lines += [path.read_text() for path in sorted(given.out.glob("*.json"))] if given.out else []
    return {(record["row"], record["way"]): record for record in map(json.loads, lines)}


def table(records: dict[tuple[str, str], dict]) -> str:
    """A line for each row over its runs, and their differences from the default, in Markdown."""
    stems = list(dict.fromkeys(re.sub("-(seed[0-9]+|again)$", "", row) for row, _ in records))
    groups = {stem: {way: [records[stem + seed, way] for seed in RUNS if (stem + seed, way) in records] for way in WAYS}
              for stem in stems}  # fmt: skip
    head = ("row", "options", "runs", *(f"{way}, execution accuracy" for way in WAYS), "exact match, of the last",
            "do not run, of the last", "training, min", "peak GiB", "points over another row, constrained (95 %)")  # fmt: skip
    lines = [markdown(head), "|---" * len(head) + "|"]
    for stem, ways in groups.items():
        first = ways["constrained"] or next(filter(None, ways.values()))
        last = next(found for found in reversed(ways.values()) if found)
        model, _, name = stem.partition("-")
        other = BESIDE.get(name, "default")
        base = groups.get(f"{model}-{other}", {}).get("constrained")
        lines.append(markdown((
            stem, " ".join(first[0]["options"]), len(first), *map(accuracy, ways.values()),
            f"{statistics.fmean(record['exact_match'] for record in last):.1%}",
            ", ".join(str(sum(record["errors"].get(kind, 0) for kind in DO_NOT_RUN)) for record in last),
            f"{min(record['train_seconds'] for record in first) / 60:.1f}",  # others may have shared their GPU
            f"{max(record['peak_memory_gib'] for record in first):.1f}",
            f"{gap(base, ways['constrained'])}, {other}" if base and ways["constrained"] and other != name else "",
        )))  # fmt: skip
    return "\n".join(lines)


def accuracy(group: list[dict]) -> str:
    """The mean over runs, and each; with an interval where there is one alone."""
    if not group:
        return ""
    shares = [record["execution_accuracy"] for record in group]
    low, high = interval(group[0]["right"].count("1"), group[0]["n"])
    own = ", ".join(f"{share:.1%}" for share in shares) if len(group) > 1 else f"{low:.1%} to {high:.1%}"
    return f"{statistics.fmean(shares):.1%} ({own})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, metavar="FILE", help="what is kept, a line each; what is new is added")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=DIR", help="a model's directory; more than once")
    parser.add_argument("--data", help="directory in Spider's layout, or sample")
    parser.add_argument("--out", type=Path, help="runs and records go here")
    parser.add_argument("--rows", default="*-default", help="names or patterns, comma between, in the order of their running")
    parser.add_argument("--ways", default="free,4", help=f"of {', '.join(WAYS)}, comma between")
    parser.add_argument("--options", default="", help="further options of llama_65b.py, for all rows")
    parser.add_argument("--list", action="store_true", help="print the rows")
    parser.add_argument("--smoke", action="store_true", help="with --tiny, on a CPU")
    given = parser.parse_args()
    given.models = dict(pair.split("=", 1) for pair in given.model)
    if bad := [name for name in given.models if "-" in name]:
        parser.error(f"--model {bad[0]}=...: a name without - is wanted")
    if unknown := set(given.ways.split(",")) - set(WAYS):
        parser.error(f"--ways knows {', '.join(WAYS)}, not {', '.join(sorted(unknown))}")
    known = rows_of(list(given.models))
    chosen = dict.fromkeys(name for pattern in given.rows.split(",") for name in fnmatch.filter(known, pattern))
    if given.list:
        print("\n".join(f"{name}: {' '.join(known[name])}" for name in chosen))
        return
    failed = 0
    if given.out:
        if not chosen or not given.data:
            parser.error("rows are run with --data, --model NAME=DIR and names of --list")
        given.out = given.out.resolve()  # commands run in the repository
        given.out.mkdir(parents=True, exist_ok=True)
        failed = spread({name: known[name] for name in chosen}, given)
    if records := read(given):
        print(table(records))
        if given.records and given.out:
            write_atomically(given.records, "".join(json.dumps(record) + "\n" for record in records.values()))
    sys.exit(min(failed, 1))


if __name__ == "__main__":
    main()
