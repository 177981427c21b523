"""The run folder: what a run was given, what it did, and what it predicted. Every file is written aside and renamed.

args.json          options, command line, git commit, package versions, GPUs, data
log.jsonl          one object a record: updates, evaluations
last/, best/       checkpoints
predictions.jsonl  one object a dev example, as `data.score` gives them
predicted.sql      one SQL a line; gold.sql: SQL, tab, db_id (the official scorer's files)
result.json        the run's figures
"""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data.errors import UserError
from data.prompt import one_line

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "deepspeed", "datasets", "tokenizers")
# what options may be
LEAST = dict.fromkeys(("epochs", "batch_size", "grad_accum", "eval_batch_size", "max_output_tokens", "num_beams"), 1)
LEAST |= dict.fromkeys(("processes", "max_updates", "eval_every", "eval_examples", "save_every", "seed"), 0)
LEAST |= dict(lora_rank=1, lora_alpha=1, max_input_tokens=64)
BELOW_ONE = ("learning_rate", "warmup", "lora_dropout")


class RunFolder:
    """A run's folder; on ranks other than the first it writes nothing."""

    def __init__(self, path: str | Path, script: str, main: bool = True):
        self.path = Path(path)
        self.script = script
        self.main = main

    def start(self, options: dict, data: dict, gpus: Sequence[str], resume: bool) -> None:
        """Make the folder and write `args.json`; a finished or broken run that stands there moves aside, numbered.

        With `resume`, the folder has to hold a run of the same script and is continued. Raises UserError otherwise, and
        for a folder that holds other things than a run.
        """
        if not self.main:
            return
        if resume:
            started = read_object(self.path / "args.json", "name the run's folder with --out, or start without --resume")
            if started.get("script") != self.script:
                raise UserError(f"{self.path} is a run of {started.get('script')}, not of {self.script}: name another --out")
        elif self.path.is_dir() and any(self.path.iterdir()):
            if not any((self.path / name).exists() for name in ("args.json", "args.json.tmp")):
                raise UserError(f"{self.path} holds other files than a run's: name another folder with --out")
            number = 1
            while (aside := self.path.with_name(f"{self.path.name}.{number}")).exists():
                number += 1
            self.path.rename(aside)
            print(f"the earlier run in {self.path} now stands in {aside}")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path} cannot be made ({error.strerror}): name another folder with --out") from None
        record = {
            "script": self.script,
            "args": options,
            "argv": sys.argv,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "git": git_state(),
            "python": platform.python_version(),
            "packages": {name: package_version(name) for name in PACKAGES},
            "gpus": list(gpus),
            "data": data,
        }
        write_atomically(self.path / "args.json", json.dumps(record, indent=2) + "\n")

    def log(self, record: dict) -> None:
        """Append one record to `log.jsonl`."""
        if self.main:
            with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def log_update(self, state: dict, total: int, loss: float, rate: float, seconds: float, tokens: int, examples: int) -> dict:
        """Log an update of `tokens` real tokens, print every tenth, and return the state of the loop after it."""
        update = state["update"]
        self.log(dict(event="update", update=update, loss=loss, learning_rate=rate, seconds=seconds, tokens=tokens))
        added = dict(update=1, train_seconds=seconds, train_tokens=tokens, examples_seen=examples)
        state = state | {name: state[name] + more for name, more in added.items()}
        if self.main and (update % 10 == 0 or update == total - 1):
            eta = (total - state["update"]) * state["train_seconds"] / state["update"]
            hours, minutes = divmod(round(eta / 60), 60)
            print(
                f"update {update:05d}/{total:05d} {update / total:5.1%} | loss {loss:.4f} | lr {rate:.1e} | {seconds:.2f} s | "
                f"{tokens / seconds:,.0f} tok/s | eta {hours}h{minutes:02d}m",
                flush=True,
            )
        return state

    def log_evaluation(self, update: int, total: int, rows: Sequence[dict], figures: dict) -> None:
        """Log one evaluation, and print its figures and two examples: reading what a model writes is how bugs are found."""
        self.log(dict(event="evaluation", update=update) | figures)
        if not self.main:
            return
        for row in (rows[0], rows[len(rows) // 2]):
            verdict = "right" if row["execution_match"] else f"wrong, {row['error']}"
            print(f"  question   {row['question']}\n  gold       {one_line(row['gold'])}")
            print(f"  predicted  {one_line(row['predicted'])[:300]}\n  verdict    {verdict}")
        print(
            f"update {update:05d}/{total:05d} | execution accuracy {figures['execution_accuracy']:.1%} | exact match "
            f"{figures['exact_match']:.1%} | n {figures['n']:,} | {figures['eval_seconds']:.1f} s",
            flush=True,
        )
        errors = Counter(row["error"] for row in rows if row["error"])
        print("  " + (", ".join(f"{count:,} {error}" for error, count in errors.most_common()) or "no errors"), flush=True)

    def predictions(self, rows: Sequence[dict]) -> None:
        """Write the three files of predictions."""
        if self.main:
            write_atomically(self.path / "predictions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
            write_atomically(self.path / "predicted.sql", "".join(one_line(row["predicted"]) + "\n" for row in rows))
            gold = "".join(f"{one_line(row['gold'])}\t{row['db_id']}\n" for row in rows)
            write_atomically(self.path / "gold.sql", gold)

    def finish(
        self,
        rows: Sequence[dict],
        model: str,
        method: str,
        parameters: dict,
        gpus: Sequence[str],
        memory: int,
        state: dict,
        figures: dict,
    ) -> None:
        """Write the predictions and `result.json`.

        `parameters` counts them; `gpus` names each rank's GPU ("cpu": none); `memory` is the most that a rank held, in
        bytes: allocated on its GPU, or resident on a CPU; `state` is the loop's last; `figures` are the last evaluation's.
        Accuracies are shares from 0 to 1.
        """
        if not self.main:
            return
        self.predictions(rows)
        started = read_object(self.path / "args.json", "start the run again")
        seconds = state["train_seconds"]
        result = dict(
            script=self.script,
            model=model,
            method=method,
            **parameters,
            gpus=sum(name != "cpu" for name in gpus),
            gpu_name=gpus[0],
            train_batch_size=started["args"]["batch_size"],
            eval_batch_size=started["args"]["eval_batch_size"],
            updates=state["update"],
            examples_seen=state["examples_seen"],
            train_seconds=seconds,
            train_examples_per_second=state["examples_seen"] / seconds if seconds else None,
            train_tokens_per_second=state["train_tokens"] / seconds if seconds else None,
            eval_seconds=figures["eval_seconds"],
            eval_examples_per_second=figures["eval_examples_per_second"],
            peak_memory_gib=memory / 2**30,
            execution_accuracy=figures["execution_accuracy"],
            exact_match=figures["exact_match"],
            n=figures["n"],
            data=started["data"]["directory"],
        )
        write_atomically(self.path / "result.json", json.dumps(result, indent=2) + "\n")
        print(f"execution accuracy {result['execution_accuracy']:.1%} of {result['n']:,} dev examples; the run: {self.path}")


def check_options(options: dict) -> None:
    """Raise UserError for an option that is out of range. Names are the scripts' own; those they lack are passed over."""
    for name in set(LEAST) & set(options):
        if options[name] < LEAST[name]:
            raise UserError(f"--{name} {options[name]} is out of range: give {LEAST[name]} or more")
    for name in set(BELOW_ONE) & set(options):
        if not 0 <= options[name] < 1:
            raise UserError(f"--{name} {options[name]} is out of range: give 0 or more and less than 1")
    if options["tiny"] and options["random_weights"]:
        raise UserError("--tiny and --random_weights are two sizes of one model: give one of them")


def checkpoint_of(model: str) -> Path | None:
    """The checkpoint that --model names, the best one of a run folder; None where it names a model."""
    recover(Path(model) / "best")
    return next((folder for folder in (Path(model) / "best", Path(model)) if (folder / "checkpoint.json").is_file()), None)


def base_of(options: dict, script: str) -> dict:
    """What is trained: --model and its size, or what the checkpoint that --model names was trained from.

    Raises UserError for another script's checkpoint, and where --tiny or --random_weights differ from the checkpoint's.
    """
    kept = ("model", "tiny", "random_weights", "seed")
    checkpoint = checkpoint_of(options["model"])
    if checkpoint is None:
        return {name: options[name] for name in kept}
    record = read_object(checkpoint / "checkpoint.json", "name another --model")
    if record.get("script") != script:
        raise UserError(f"{checkpoint} was saved by {record.get('script')}.py: name a checkpoint of {script}.py")
    if not isinstance(record.get("base"), dict) or not set(kept) <= set(record["base"]):
        raise UserError(f"{checkpoint}/checkpoint.json does not say what was trained: name another --model")
    for flag in ("tiny", "random_weights"):
        if record["base"][flag] != options[flag]:
            how = "with" if record["base"][flag] else "without"
            raise UserError(f"{checkpoint} was trained {how} --{flag}: run it {how} --{flag} here too")
    return record["base"]


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, never meets half of it."""
    aside = path.with_name(path.name + ".tmp")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def replace_folder(aside: Path, final: Path) -> None:
    """Put the folder `aside` in the place of `final`; after a crash at any moment `recover` finds one of them whole."""
    recover(final)  # an earlier one that was cut off: its .old may be all there is
    earlier = final.with_name(final.name + ".old")
    shutil.rmtree(earlier, ignore_errors=True)
    if final.exists():
        final.rename(earlier)
    aside.rename(final)
    shutil.rmtree(earlier, ignore_errors=True)


def recover(final: Path) -> None:
    """Undo a `replace_folder` that was cut off between its two renames."""
    earlier = final.with_name(final.name + ".old")
    if earlier.exists() and not final.exists():
        earlier.rename(final)


def read_object(path: Path, remedy: str) -> dict:
    """A JSON object from a run folder. Raises UserError, with `remedy`, where it is missing or malformed."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {remedy}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): {remedy}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a JSON object: {remedy}")
    return content


def git_state() -> dict:
    """The checkout's commit and whether files differ from it; None where there is no git or no checkout."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", Path(__file__).parent, *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def package_version(name: str) -> str | None:
    """The installed version of a package, None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
