"""How a training run scales over the GPUs of one host: examples a second, efficiency against one GPU, peak memory.

    python3 tests/bench/scaling.py --data data/spider --out runs/scaling
    python3 tests/bench/scaling.py --data data/spider --out runs/scaling --runs llama_65b,T5_3B --gpus 1,2

Each run is the script's own command at full size with random weights. An update holds the same examples on any number of
GPUs, which share its forward passes, so runs differ in nothing but the GPUs; the first two updates, which warm up and are
the heaviest of an epoch, are left out. Records that stand in `--out` are not measured again: a table can be made in parts.
`--smoke` tries it all with `--tiny` on CPU processes.

    python3 tests/bench/scaling.py --data data/spider --out runs/scaling --evaluate RUN

compares an evaluation that is shared over the GPUs with one on a single GPU, prediction by prediction, and prints those that
differ; RUN is the folder of a trained run. `--gpus 1,1,2` says what one GPU writes a second time, too.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from data.common.files import write_atomically  # noqa: E402
from data.report.curves import markdown  # noqa: E402


@dataclass(frozen=True)
class Run:
    """A script in updates of so many examples."""

    script: str
    examples: int
    options: tuple[str, ...] = ()


WARM_UP = 2  # updates that do not count
RUNS = {
    "T5_3B": Run("T5_3B", 128),
    "T5_3B-published": Run("T5_3B", 16, ("--published",)),
    "flan_t5_base": Run("flan_t5_base", 128),
    "gpt_neox_20b": Run("gpt_neox_20b", 128, ("--compile", "on")),
    "gpt_neox_20b-published": Run("gpt_neox_20b", 32, ("--published",)),
    "llama_65b": Run("llama_65b", 128, ("--compile", "on")),
    "llama_65b-published": Run("llama_65b", 32, ("--published",)),
}


def command(run: Run, gpus: int, given: argparse.Namespace, out: Path) -> list[str]:
    """The command line of a run on so many GPUs."""
    options = ["--data", given.data, "--out", str(out), "--update_examples", str(given.update_examples or run.examples)]
    options += ["--max_updates", str(given.updates + WARM_UP), "--eval_every", "0", "--eval_examples", str(2 * max(given.gpus))]
    options += ["--max_output_tokens", "8", "--save_every", "-1", "--tiny" if given.smoke else "--random_weights"]
    options += run.options
    model = dict(pair.split("=") for pair in given.model).get(run.script)
    options += ["--model", model] if model else []
    return launched(run.script, gpus, options, given)


def launched(script: str, gpus: int, options: list[str], given: argparse.Namespace) -> list[str]:
    """The command line of a script in so many processes."""
    if script == "T5_3B":
        return ["deepspeed", "--num_accelerators" if given.smoke else "--num_gpus", str(gpus), f"{script}.py", *options]
    return [sys.executable, f"{script}.py", *options, "--processes", str(gpus)]


def environment(given: argparse.Namespace) -> dict[str, str]:
    found = os.environ | dict(NCCL_NVLS_ENABLE="0")  # multicast can put the GPUs of a shared host out of service
    return found | (dict(DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="") if given.smoke else {})


def measure(name: str, gpus: int, given: argparse.Namespace) -> dict:
    """Run one command and read its record: seconds, tokens and examples of its updates, GiB; `failed` where it fails."""
    out = given.out / f"{name}-{gpus}"
    shutil.rmtree(out, ignore_errors=True)
    words = command(RUNS[name], gpus, given, out)
    began = time.monotonic()
    with (given.out / f"{name}-{gpus}.log").open("w") as log:
        code = subprocess.run(words, cwd=ROOT, env=environment(given), stdout=log, stderr=subprocess.STDOUT).returncode
    if code:
        return dict(run=name, gpus=gpus, failed=f"exit code {code}", command=words)
    result = json.loads((out / "result.json").read_text())
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    updates = [line for line in lines if line["event"] == "update"]
    return dict(
        run=name, gpus=gpus, gpu_name=result["gpu_name"], batch=given.update_examples or RUNS[name].examples, command=words,
        examples_an_update=result["examples_seen"] // result["updates"], losses=[line["loss"] for line in updates],
        update_seconds=[line["seconds"] for line in updates[WARM_UP:]],
        update_tokens=[line["tokens"] for line in updates[WARM_UP:]],
        peak_memory_gib=result["peak_memory_gib"], wall_seconds=time.monotonic() - began,
    )  # fmt: skip


def table(records: dict[tuple[str, int], dict]) -> str:
    """What was measured, in Markdown; efficiency is the share of the fewest GPUs' speed a GPU that is kept.

    It is the median over the updates: each holds the same examples on any number of GPUs, but more tokens than another.
    """
    head = ("run", "GPUs", "batch a GPU", "examples an update", "seconds an update", "examples/s, median", "efficiency", "GiB")
    lines = [markdown(head), "|---" * len(head) + "|"]
    for (name, gpus), record in sorted(records.items()):
        size, seconds = record["examples_an_update"], record["update_seconds"]
        # updates of other sizes hold other examples
        alike = [r for (other, _), r in records.items() if other == name and r["examples_an_update"] == size]
        base = min(alike, key=lambda r: r["gpus"])
        pairs = zip(base["update_seconds"], seconds)
        efficiency = statistics.median(one * base["gpus"] / (many * gpus) for one, many in pairs)
        cells = (name, f"{gpus} x {record['gpu_name']}", record["batch"], size,
                 ", ".join(f"{each:.2f}" for each in seconds), f"{size / statistics.median(seconds):.2f}", f"{efficiency:.1%}",
                 f"{record['peak_memory_gib']:.1f}")  # fmt: skip
        lines.append(markdown(cells))
    return "\n".join(lines)


def evaluate(given: argparse.Namespace) -> str:
    """Generate with a run's best checkpoint on each number of GPUs -> speed and what is equal, in Markdown; what differs."""
    script = json.loads((given.evaluate / "args.json").read_text())["script"]
    head = ("GPUs", "n", "examples/s", "right", "predictions equal to those on one")
    lines, others = [markdown(head), "|---" * len(head) + "|"], []
    first: list[str] = []
    for gpus in given.gpus:
        out = given.out / f"evaluation-{gpus}"
        shutil.rmtree(out, ignore_errors=True)
        options = ["--eval_only", "--model", str(given.evaluate), "--data", given.data, "--out", str(out)]
        options += ["--eval_examples", str(given.eval_examples), "--eval_batch_size", str(given.eval_batch_size)]
        options += ["--num_beams", str(given.num_beams)]
        options += ["--tiny"] if given.smoke else []
        with (given.out / f"evaluation-{gpus}.log").open("w") as log:
            words = launched(script, gpus, options, given)
            subprocess.run(words, cwd=ROOT, env=environment(given), stdout=log, stderr=subprocess.STDOUT, check=True)
        result = json.loads((out / "result.json").read_text())
        answers = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
        written = [str([answer["predicted"], *(each["sql"] for each in answer.get("candidates") or ())]) for answer in answers]
        first = first or written
        different = [(number, *pair) for number, pair in enumerate(zip(first, written, strict=True)) if len(set(pair)) > 1]
        others += [f"{number} on {given.gpus[0]}: {a}\n{number} on {gpus}: {b}" for number, a, b in different]
        speed, right = f"{result['eval_examples_per_second']:.2f}", f"{result['execution_accuracy']:.1%}"
        lines.append(
            markdown(
                (gpus, result["n"], speed, right, f"{len(first) - len(different)} of {len(first)}, {len(set(first))} different")
            )
        )
    return "\n".join(lines + others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="directory in Spider's layout, or sample")
    parser.add_argument("--out", type=Path, required=True, help="the runs, and a JSON of each")
    parser.add_argument("--runs", default=",".join(RUNS), help="comma between")
    parser.add_argument("--gpus", default="1,2,4,8", help="numbers of GPUs, comma between; what is not there is left out")
    parser.add_argument("--update_examples", type=int, default=0, help="examples an update; 0: each run's own")
    parser.add_argument("--updates", type=int, default=4, help="that count")
    parser.add_argument("--model", action="append", default=[], metavar="SCRIPT=DIR", help="a directory with its tokenizer")
    parser.add_argument("--smoke", action="store_true", help="with --tiny, on CPU processes")
    parser.add_argument("--evaluate", type=Path, metavar="RUN", help="a trained run, whose evaluation is compared instead")
    parser.add_argument("--eval_examples", type=int, default=96, help="of --evaluate")
    parser.add_argument("--eval_batch_size", type=int, default=1, help="of --evaluate; at 1 all rounding is alike")
    parser.add_argument("--num_beams", type=int, default=1, help="of --evaluate: candidates")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    wanted = [int(number) for number in given.gpus.split(",")]
    if not given.smoke:
        import torch

        wanted = [number for number in wanted if number <= torch.cuda.device_count()]
    given.gpus = wanted
    if given.evaluate:
        print(evaluate(given))
        return
    for name in given.runs.split(","):
        for gpus in wanted:
            path = given.out / f"{name}-{gpus}.json"
            if not path.exists():
                record = measure(name, gpus, given)
                if "failed" in record:
                    print(f"{name} on {gpus}: {record['failed']}, see {given.out / f'{name}-{gpus}.log'}", flush=True)
                    continue
                print(f"{name} on {gpus}: {record['update_seconds']} s", flush=True)
                write_atomically(path, json.dumps(record) + "\n")
    paths = {(name, gpus): given.out / f"{name}-{gpus}.json" for name in RUNS for gpus in range(1, 65)}
    print(table({key: json.loads(path.read_text()) for key, path in paths.items() if path.exists()}))


if __name__ == "__main__":
    main()
