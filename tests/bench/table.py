"""The published table beside what is measured here, and the scripts beside the stock recipe (stock.py), on one GPU.

    python3 tests/bench/table.py --data data/spider --out runs/table
    python3 tests/bench/table.py --data data/spider --out runs/table --runs llama_65b,llama_65b-stock,llama_65b-default
    python3 tests/bench/table.py --data data/spider --out runs/table --model llama_65b=DIR --model T5_3B=DIR
    python3 tests/bench/table.py --data sample --out /tmp/table --smoke --new_tokens 8

Each run is a script's own command at full size with random weights; `-default` runs have its defaults, the others
`--published`, `-stock` runs are stock.py's. Updates are a script's own, of several forward passes; the first two, which warm
up and are the heaviest of an epoch, are left out. Every answer has `--new_tokens` tokens: the row of the output layer that
ends an answer is set to zero, else some random models would end theirs at once. A script's evaluation counts its start,
too. Records that stand in `--out` are not measured again: the tables can be made in parts. `--smoke` tries it all with
`--tiny` on a CPU.
"""

import argparse
import importlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from scaling import ROOT, WARM_UP, environment, launched

from data.common.errors import exit_on_user_error
from data.common.files import write_atomically
from data.report.curves import markdown, number


@dataclass(frozen=True)
class Run:
    """A script at a batch of so many examples in training (0: what fits) and in evaluation, with what was published of it."""

    script: str
    batch: int
    eval_batch: int
    options: tuple[str, ...] = ()
    zero2: bool = False
    published: tuple[float | None, float | None] = (None, None)  # time in training and in inference, the first row's 1
    share: str = ""  # of the parameters that train, as published


PUBLISHED = {
    "T5_3B": Run("T5_3B", 1, 4, ("--published",), published=(1, 1), share="100 %"),
    "T5_3B-zero2": Run("T5_3B", 2, 4, ("--published",), zero2=True, published=(0.8, 1), share="100 %"),
    "flan_t5_base": Run("flan_t5_base", 36, 16, ("--published",), published=(0.04, None), share="50 %"),
    "gpt_neox_20b": Run("gpt_neox_20b", 4, 24, ("--published",), published=(4, 6.1)),
    "llama_65b": Run("llama_65b", 4, 24, ("--published",), published=(4, 6.1)),
}
DEFAULT = {
    "T5_3B-default": Run("T5_3B", 0, 128),
    "flan_t5_base-default": Run("flan_t5_base", 0, 128),
    "gpt_neox_20b-default": Run("gpt_neox_20b", 0, 128, ("--compile", "on")),
    "llama_65b-default": Run("llama_65b", 0, 128, ("--compile", "on")),
}
RUNS = PUBLISHED | DEFAULT
SCRIPTS = list(dict.fromkeys(run.script for run in PUBLISHED.values()))
STOCK = {f"{script}-stock": script for script in SCRIPTS}
ENDLESS = "BENCH_ENDLESS"  # in the environment: the script that this file stands in for


def endless(name: str) -> None:
    """Run a script's main in this process; the answers of its random weights do not end."""
    script = importlib.import_module(name)
    load_model = script.load_model

    def without_end(args, base, config, tokenizer, device):
        model = load_model(args, base, config, tokenizer, device)
        for weight in model.get_output_embeddings().parameters():  # PEFT may have it in a layer of its own
            if len(weight) == config.vocab_size:
                weight.data[tokenizer.eos_token_id] = 0
        return model

    script.load_model = without_end
    exit_on_user_error(script.main)


def command(run: Run, given: argparse.Namespace, out: Path) -> list[str]:
    """The command line of a run."""
    options = ["--data", given.data, "--out", str(out), "--batch_size", str(run.batch), "--eval_batch_size"]
    options += [str(run.eval_batch), "--eval_examples", str(given.eval_batches * run.eval_batch), "--eval_every", "0"]
    options += ["--max_updates", str(given.updates + WARM_UP), "--max_output_tokens", str(given.new_tokens)]
    options += ["--num_beams", "1", "--save_every", "-1", "--tiny" if given.smoke else "--random_weights", *run.options]
    options += model_of(run.script, given)
    if run.script == "T5_3B" and not run.zero2:
        return [sys.executable, "T5_3B.py", *options]
    return launched(run.script, 1, options, given)


def model_of(script: str, given: argparse.Namespace) -> list[str]:
    """The option that names a script's tokenizer, where one is given."""
    model = dict(pair.split("=") for pair in given.model).get(script)
    return ["--model", model] if model else []


def call(words: list[str], log: Path, variables: dict[str, str]) -> int:
    """Run a command with its output in a file -> its exit code."""
    with log.open("w") as file:
        return subprocess.run(words, cwd=ROOT, env=variables, stdout=file, stderr=subprocess.STDOUT).returncode


def measure(name: str, given: argparse.Namespace) -> int:
    """Run a script and keep the record of it, unless it fails -> its exit code."""
    run, out, log = RUNS[name], given.out / name, given.out / f"{name}.log"
    shutil.rmtree(out, ignore_errors=True)
    words = command(run, given, out)
    here = [str(Path(__file__).resolve()) if word == f"{run.script}.py" else word for word in words]
    if code := call(here, log, environment(given) | {ENDLESS: run.script}):
        return code
    result, timed = timed_updates(out)
    kept = ("method", "parameters", "trainable_percent", "trainable_percent_packed", "gpu_name", "train_batch_size")
    kept += ("eval_batch_size", "n", "eval_seconds", "eval_examples_per_second", "peak_memory_gib")
    smaller = [int(batch) for batch in re.findall(r"going on with (\d+) a batch", log.read_text(errors="replace"))]
    record = {column: result[column] for column in kept} | dict(
        run=name, smoke=given.smoke, command=words, new_tokens=given.new_tokens, eval_batches_that_fit=smaller, **timed,
        examples_per_second=timed["examples_an_update"] / statistics.median(timed["update_seconds"]),
    )  # fmt: skip
    write_atomically(given.out / f"{name}.json", json.dumps(record, indent=2) + "\n")
    return 0


def timed_updates(out: Path) -> tuple[dict, dict]:
    """The result of a script's run, and what its updates took after those that warm up."""
    result = json.loads((out / "result.json").read_text())
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    updates = [line for line in lines if line["event"] == "update"]
    seconds, tokens = ([line[column] for line in updates[WARM_UP:]] for column in ("seconds", "tokens"))
    speed = sum(tokens) / sum(seconds)
    # the result's utilisation counts all updates: operations go with tokens
    used = result["utilisation"] and result["utilisation"] * speed / result["train_tokens_per_second"]
    return result, dict(
        examples_an_update=result["examples_seen"] // result["updates"], update_seconds=seconds, update_tokens=tokens,
        tokens_per_second=speed, utilisation=used, train_peak_memory_gib=updates[-1]["memory_gib"],
    )  # fmt: skip


def measure_stock(name: str, given: argparse.Namespace, parts: list[str]) -> int:
    """Run stock.py, which keeps its own record -> its exit code."""
    words = [sys.executable, "tests/bench/stock.py", "--run", STOCK[name], "--part", ",".join(parts), "--data", given.data]
    words += ["--out", str(given.out), "--updates", str(given.updates), "--eval_batches", str(given.eval_batches)]
    words += ["--new_tokens", str(given.new_tokens), *model_of(STOCK[name], given), *["--smoke"] * given.smoke]
    return call(words, given.out / f"{name}.log", environment(given))


def pair(values: tuple[float | None, float | None], form: str = "{:.2g}") -> str:
    return " / ".join(number(value, form) or "-" for value in values)


def batches(record: dict) -> str:
    """A run's batches in training and evaluation; where memory made the latter smaller, what it came to."""
    fit = record["eval_batches_that_fit"]
    return f"{record['train_batch_size']} / {record['eval_batch_size']}" + (f", went on with {fit[-1]}" if fit else "")


def published(records: dict[str, dict]) -> str:
    """The published table and what is measured, in Markdown; times are seconds an example over those of the first row."""
    head = ("model", "method", "parameters", "trainable: published / of all / as stored", "batch",
            "published time, training / inference", "measured time", "s an example, training / evaluation", "real tokens/s",
            "utilisation", "peak GiB, training / all", "GPU")  # fmt: skip
    lines = [markdown(head), "|---" * len(head) + "|"]
    columns = ("examples_per_second", "eval_examples_per_second")
    first = records.get(next(iter(PUBLISHED)))
    for name, run in PUBLISHED.items():
        if record := records.get(name):
            shares = pair((record["trainable_percent"], record["trainable_percent_packed"]), "{:.3g} %")
            relative = pair(tuple(first[column] / record[column] for column in columns)) if first else None
            lines.append(markdown((
                run.script, record["method"], f"{record['parameters']:,}", f"{run.share or '-'} / {shares}", batches(record),
                pair(run.published), relative, pair(tuple(1 / record[column] for column in columns), "{:.3g}"),
                f"{record['tokens_per_second']:,.0f}", number(record["utilisation"], "{:.0%}"),
                pair((record["train_peak_memory_gib"], record["peak_memory_gib"]), "{:.1f}"), record["gpu_name"],
            )))  # fmt: skip
    return "\n".join(lines)


def beside_stock(records: dict[str, dict], stock: dict[str, dict]) -> str:
    """What each run does beside the stock recipe of its model, in Markdown."""
    head = ("run", "GPU", "batch", "examples/s, training", "times stock", "tokens an example", "real tokens/s", "utilisation",
            "peak GiB, training", "examples/s, evaluation", "times stock")  # fmt: skip
    lines = [markdown(head), "|---" * len(head) + "|"]
    for script in SCRIPTS:
        train, answers = (stock.get(f"{script}-stock", {}).get(part, {}) for part in ("train", "eval"))
        if train or answers:
            fit = [answers["batch"]] if answers and answers["batch"] < answers["asked_batch"] else []
            both = dict(train_batch_size=train.get("batch"), eval_batch_size=answers.get("asked_batch"))
            names = sorted({part["gpu_name"] for part in (train, answers) if part})
            lines.append(markdown((
                f"{script}-stock", ", ".join(names), batches(both | dict(eval_batches_that_fit=fit)), *speeds(train, train),
                number(answers.get("examples_per_second"), "{:.3g}"), "1" if answers else None,
            )))  # fmt: skip
        for name, record in records.items():
            if RUNS[name].script == script:
                own, alike = record["eval_examples_per_second"], answers.get("new_tokens") == record["new_tokens"]
                answering = [f"{own:.3g}", f"{own / answers['examples_per_second']:.2f}" if alike else None]
                lines.append(markdown((name, record["gpu_name"], batches(record), *speeds(record, train), *answering)))
    return "\n".join(lines)


def speeds(record: dict, stock: dict) -> list[str | None]:
    """The cells of a training: examples a second, times stock, tokens an example and a second, utilisation, GiB."""
    own, other = record.get("examples_per_second"), stock.get("examples_per_second")
    memory = record.get("train_peak_memory_gib", record.get("peak_memory_gib"))
    size = record.get("examples_an_update", record.get("batch"))
    length = statistics.fmean(record["update_tokens"]) / size if record else None
    return [number(own, "{:.3g}"), f"{own / other:.2f}" if own and other else None, number(length, "{:.0f}"),
            number(record.get("tokens_per_second"), "{:,.0f}"), number(record.get("utilisation"), "{:.0%}"),
            number(memory, "{:.1f}")]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="directory in Spider's layout, or sample")
    parser.add_argument("--out", type=Path, required=True, help="the runs, and a JSON of each")
    parser.add_argument("--runs", default=",".join([*RUNS, *STOCK]), help="comma between")
    parser.add_argument("--updates", type=int, default=4, help="that count")
    parser.add_argument("--eval_batches", type=int, default=2, help="that are answered")
    parser.add_argument("--new_tokens", type=int, default=64, help="of every answer")
    parser.add_argument("--model", action="append", default=[], metavar="SCRIPT=DIR", help="a directory with its tokenizer")
    parser.add_argument("--smoke", action="store_true", help="with --tiny, on a CPU")
    given = parser.parse_args()
    given.out = given.out.resolve()  # commands run in the repository
    given.out.mkdir(parents=True, exist_ok=True)
    paths = {name: given.out / f"{name}.json" for name in RUNS}
    paths |= {name: given.out / f"stock-{script}.json" for name, script in STOCK.items()}

    def kept(names) -> dict[str, dict]:
        return {name: json.loads(paths[name].read_text()) for name in names if paths[name].exists()}

    wanted = given.runs.split(",")
    if unknown := set(wanted) - set(paths):
        parser.error(f"--runs knows {', '.join(paths)}, not {', '.join(sorted(unknown))}")
    for name in wanted:
        missing = [part for part in ("train", "eval") if part not in kept([name]).get(name, {})]
        if missing if name in STOCK else not paths[name].exists():
            code = measure_stock(name, given, missing) if name in STOCK else measure(name, given)
            print(f"{name}: " + (f"exit code {code}, see {given.out / name}.log" if code else "measured"), flush=True)
    print(f"\n{published(kept(PUBLISHED))}\n\n{beside_stock(kept(RUNS), kept(STOCK))}")


if __name__ == "__main__":
    if ENDLESS in os.environ:
        endless(os.environ[ENDLESS])
    else:
        main()
