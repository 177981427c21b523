"""The run folder: a run's options, log, checkpoints, predictions and figures. All but the log are replaced atomically.

args.json          options, command line, git commit, package versions, GPUs, data
log.jsonl          an object per line: updates, evaluations, warnings
last/, best/       checkpoints (`data.run.checkpoints`)
predictions.jsonl  an object per dev example, as `data.answers.candidates.scored` returns them
predicted.sql      an SQL per line; gold.sql: SQL, tab, db_id (the official scorer's files)
result.json        the run's figures
curves.png         loss, learning rate, accuracy and throughput over the updates (`data.report.curves`)
report.html        every prediction beside its gold (`data.report.page`)
"""

import fcntl
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from data.benchmark.prompt import one_line
from data.benchmark.schema import Benchmark
from data.common.errors import UserError, printable
from data.common.files import move_aside, read_object, write_atomically
from data.report import page
from data.report.curves import OF_THE_CALL, TABLE_HEAD, curves, table_row
from data.run.checkpoints import keep_state, recover, unseal
from data.run.hardware import utilisation

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "deepspeed", "datasets", "tokenizers")
# options that, if changed, would make a resumed run another run
FIXED = ("model", "tiny", "random_weights", "seed", "train_others", "share_schema", "overfit", "max_input_tokens", "optimizer")
FIXED += ("plain_sql", "full_names", "values", "vary_schema", "update_examples", "lora_rank", "lora_alpha", "lora_targets")
FIXED += ("base_16bit",)

# the state of a loop before its first update
START = dict(update=0, evaluated=-1, best=-1.0, train_seconds=0.0, train_tokens=0, train_flops=0.0, examples_seen=0)

LOCKED: dict[tuple[int, int], int] = {}  # the run folders of this process: device and inode, and the file that holds the lock


class RunFolder:
    """A run's folder; only the first rank (`main`) writes and prints."""

    def __init__(self, path: str | Path, script: str, main: bool = True, track: Callable[..., None] | None = None):
        self.path = Path(path)
        self.script = script
        self.main = main
        self.track = track  # track({name: number}, step=update): an experiment tracker
        self.gpus: list[str] = []
        self.resume = False
        self.waiting: list[str] | None = None  # between `prepare` and `start`: `args.json`, then lines of the log

    def check(self, options: dict, data: dict, resume: bool) -> None:
        """Raise UserError where `prepare` would, but before a run's other processes start, which would wait for the first."""
        if int(os.environ.get("RANK", 0)) == 0:
            self._earlier(options, data, resume)

    def prepare(self, options: dict, data: dict, gpus: Sequence[str], resume: bool) -> None:
        """Make the folder where there is none, and lock it; what it holds stays until `start`, as a model may fail to load.

        With `resume`, the folder has to hold a run of the same script with an intact checkpoint, which is continued: changed
        options are printed, and those that would make it another run are refused unless the option `force` is set. Raises
        UserError otherwise, for a folder that holds something else than a run, and for an earlier run that cannot be moved.
        """
        self.gpus, self.resume = list(gpus), resume
        if not self.main:
            return
        started = self._earlier(options, data, resume, say=True)
        self._make()
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        record = {
            "script": self.script,
            "args": options,
            "argv": sys.argv,
            "started": started.get("started", now),
            "resumed": [*started.get("resumed", []), now] if resume else [],
            "git": git_state(),
            "python": platform.python_version(),
            "packages": {name: package_version(name) for name in PACKAGES},
            "gpus": list(gpus),
            "data": data,
        }
        self.waiting = [json.dumps(record, indent=2) + "\n"]

    def _make(self) -> None:
        """Make the folder where there is none, and lock it until this process ends. Raises UserError."""
        try:
            self.path.resolve().mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path} cannot be made ({error.strerror}): name another folder with --out") from None
        self._locked(keep=True)

    def _move_aside(self) -> None:
        """Rename the earlier run in the folder, with a number, and make the folder anew. Raises UserError."""
        place = self.path.resolve()  # a link to another disk stays
        found = place.stat()
        try:
            aside = move_aside(place)
        except OSError as error:
            moved = f"the earlier run in {self.path} cannot be moved aside ({error.strerror})"
            raise UserError(f"{moved}: name another folder with --out") from None
        os.close(LOCKED.pop((found.st_dev, found.st_ino)))
        print(f"the earlier run in {self.path} now stands in {aside}")
        self._make()

    def _locked(self, keep: bool) -> None:
        """Lock the folder against other processes, and `keep` it until this one ends. Raises UserError where it is locked."""
        folder = os.open(self.path, os.O_RDONLY)
        found = os.fstat(folder)
        place = found.st_dev, found.st_ino
        try:
            if place not in LOCKED:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(folder)
            raise UserError(f"a run is at work in {self.path}: wait for it, or name another folder with --out") from None
        except OSError:  # some network file systems lock no folders
            pass
        if keep and place not in LOCKED:
            LOCKED[place] = folder
        else:
            os.close(folder)

    def _earlier(self, options: dict, data: dict, resume: bool, say: bool = False) -> dict:
        """The record of the run in the folder that can go on with these options; {} without `resume`. Raises UserError.

        `say`: print the options that differ.
        """
        if self.path.is_dir():
            self._locked(keep=False)
        if not resume:
            other = self.path.is_dir() and any(self.path.iterdir())
            if other and not any((self.path / name).exists() for name in ("args.json", "args.json.tmp")):
                raise UserError(f"{self.path} holds other files than a run's: name another folder with --out")
            if other and Path.cwd().is_relative_to(self.path.resolve()):
                moved = f"the earlier run in {self.path} cannot be moved aside (the working directory is in it)"
                raise UserError(f"{moved}: name another folder with --out")
            model = options["model"]
            if model and Path(model).exists() and Path(model).resolve().is_relative_to(self.path.resolve()):
                raise UserError(f"--model {model} is in the folder that this run would take: name another with --out")
            return {}
        remedy = "name the run's folder with --out, or start without --resume"
        started = read_object(self.path / "args.json", remedy)
        if started.get("script") != self.script:
            raise UserError(f"{self.path} is a run of {started.get('script')}, not of {self.script}: name another --out")
        recover(self.path / "last")
        unseal(self.path / "last", self.script, "there is nothing whole to resume: start without --resume")
        try:
            earlier = started["args"]
            before = dict(zip(FIXED, map(earlier.get, FIXED)), data=started["data"]["sha256"])
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{self.path / 'args.json'} is of another version, or not whole: {remedy}") from None
        after = dict(zip(FIXED, map(options.get, FIXED)), data=data["sha256"])
        for name in sorted(set(earlier) | set(options)) if say else ():
            if name not in OF_THE_CALL and earlier.get(name) != options.get(name):
                print(f"--{name} was {earlier.get(name)} before, and is {options.get(name)} from here on")
        other = [name for name in after if before[name] != after[name]]
        if other and not options.get("force"):
            listed = ", ".join(name if name == "data" else f"{name} {before[name]} -> {after[name]}" for name in other)
            raise UserError(f"{self.path} would go on as another run ({listed}): give what it was started with, or --force")
        return started

    def start(self, state: dict, total: int) -> dict:
        """Begin in the folder, or go on from a checkpoint's `state`; return `state`.

        An earlier run in its place is renamed, with a number. Of a run that goes on this removes from `log.jsonl` what came
        after the checkpoint, incomplete lines, and the leftovers of an interrupted save. Writes what `prepare` and `log` kept
        back. Raises UserError where the run has made more updates than `total`, those it shall have.
        """
        if state["update"] > total:
            made = f"the run has made {state['update']:,} updates, and the options ask for {total:,}"
            raise UserError(f"{made}: raise --epochs or --max_updates")
        if not self.main:
            return state
        if not self.resume and any(self.path.iterdir()):
            self._move_aside()
        for name in ("last.tmp", "last.old", "best.tmp"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        path, kept = self.path / "log.jsonl", []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
            try:
                record = json.loads(line)
                last = state["evaluated"] if record["event"] == "evaluation" else state["update"] - 1
                kept += [line + "\n"] if record["update"] <= last or record["event"] == "health" else []
            except (ValueError, KeyError, TypeError):  # the run was interrupted while it wrote this line
                continue
        arguments, *health = self.waiting
        self.waiting = None
        write_atomically(self.path / "args.json", arguments)
        write_atomically(path, "".join([*kept, *health]))
        return state

    def log(self, record: dict) -> None:
        """Append a record to `log.jsonl`, and send its numbers to the experiment tracker."""
        if self.main:
            line = json.dumps(record) + "\n"
            if self.waiting is not None:
                self.waiting.append(line)
            else:
                with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
                    file.write(line)
            if self.track:
                numbers = {name: value for name, value in record.items() if isinstance(value, int | float) and name != "update"}
                self.track({f"{record['event']}/{name}": value for name, value in numbers.items()}, step=record["update"])

    def health(self, update: int, line: str, warnings: Sequence[str]) -> None:
        """Print the line and the warnings of a health check, and log the warnings."""
        self.log(dict(event="health", update=update, warnings=list(warnings)))
        if self.main:
            print(line)
            for warning in warnings:
                print(f"WARNING: {warning}")
            sys.stdout.flush()

    def counted(self, counts: dict, rate: float = 0.0) -> None:
        """Print the number of parameters, how many of them are trained, and the peak learning rate that follows from it."""
        if self.main:
            stored = counts["trainable_percent_packed"]
            share = f", {stored:.2f} % as stored" if stored != counts["trainable_percent"] else ""
            peak = f" | peak learning rate {rate:g}" if rate else ""
            print(f"{counts['trainable_parameters']:,} of {counts['parameters']:,} parameters train{share} | "
                  f"{len(self.gpus)} x {self.gpus[0]}{peak}", flush=True)  # fmt: skip

    def check_finite(self, loss: float, norm: float, update: int, rate: float) -> None:
        """Raise UserError for an update whose loss or gradient's `norm` is not finite, before its weights can be saved."""
        if math.isfinite(loss) and math.isfinite(norm):
            return
        wrong = f"the gradient's norm is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
        if not update:
            raise UserError(f"{wrong} at the first update, before anything was learned: name other weights with --model, as "
                            "these are broken, or too large for their type of number")  # fmt: skip
        good = (self.path / "last").exists()
        again = f"--resume from the last good checkpoint, {self.path}/last," if good else "start again"
        raise UserError(f"{wrong} at update {update}, learning rate {rate:.1e}: {again} with a lower --learning_rate")

    def log_update(
        self, state: dict, total: int, examples: int, parts: tuple[int, int], costs: tuple[int, int], **record: float
    ) -> dict:
        """Log an update, print every tenth, and return the state of the loop after it.

        `parts`: the update's tokens, without padding, of prompts and of answers; `costs`: FLOPs per token of each. `record`:
        loss, learning_rate, seconds and memory_gib (this rank's peak so far).
        """
        update, seconds, tokens = state["update"], record["seconds"], sum(parts)
        flops = sum(part * cost for part, cost in zip(parts, costs))
        self.log(dict(event="update", update=update) | record | dict(tokens=tokens))
        added = dict(update=1, train_seconds=seconds, train_tokens=tokens, train_flops=flops, examples_seen=examples)
        state = state | {name: state[name] + more for name, more in added.items()}
        if self.main and (update % 10 == 0 or update == total - 1):
            eta = (total - state["update"]) * state["train_seconds"] / state["update"]
            hours, minutes = divmod(round(eta / 60), 60)
            used = utilisation(flops, seconds, self.gpus)
            print(
                f"update {update:05d}/{total:05d} {update / total:5.1%} | loss {record['loss']:.4f} | "
                f"lr {record['learning_rate']:.1e} | {seconds:.2f} s | {tokens / seconds:,.0f} tok/s | "
                + (f"utilisation {used:.0%} | " if used else "")
                + f"{record['memory_gib']:.1f} GiB | eta {hours}h{minutes:02d}m",
                flush=True,
            )
        return state

    def log_evaluation(self, state: dict, total: int, rows: Sequence[dict], figures: dict) -> bool:
        """Log an evaluation in `log.jsonl` and in `state`, and return whether it is the best so far.

        Draws the curves, and prints the figures and two examples, since reading examples is how bugs are found.
        """
        update, accuracy = state["update"], figures["execution_accuracy"]
        best = accuracy > state["best"]
        state |= dict(evaluated=update, best=max(accuracy, state["best"]))
        self.log(dict(event="evaluation", update=update) | figures)
        if not self.main:
            return best
        make_or_warn("curves.png", curves, self.path)
        for row in (rows[0], rows[len(rows) // 2]):
            verdict = "right" if row["execution_match"] else f"wrong, {row['error']}"
            print(f"  question   {printable(row['question'])}\n  gold       {printable(one_line(row['gold']))}")
            print(f"  predicted  {printable(one_line(row['predicted'])[:300])}\n  verdict    {verdict}")
        print(
            f"update {update:05d}/{total:05d} | execution accuracy {figures['execution_accuracy']:.1%} | exact match "
            f"{figures['exact_match']:.1%} | n {figures['n']:,} | {figures['eval_seconds']:.1f} s",
            flush=True,
        )
        errors = Counter(row["error"] for row in rows if row["error"])
        said = [f"{count:,} {error}" for error, count in errors.most_common()]
        if cut := sum(row.get("cut", False) for row in rows):
            said.append(f"{cut:,} cut at --max_output_tokens")
        print("  " + (", ".join(said) or "no errors"), flush=True)
        return best

    def keep(self, state: dict) -> None:
        """Note in `last`, saved before an evaluation, what it brought."""
        if self.main:
            keep_state(self.path / "last", state)

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
        benchmark: Benchmark,
    ) -> None:
        """Write the predictions, `result.json` and `report.html`, and print the run's row of a table of results.

        `parameters`: their counts; `gpus`: each rank's GPU ("cpu": none); `memory`: a rank's peak, in bytes, allocated on its
        GPU or resident on a CPU; `state`: the loop's last; `figures`: the last evaluation's. Accuracies are fractions.
        """
        if not self.main:
            return
        self.predictions(rows)
        started = read_object(self.path / "args.json", "start the run again")
        seconds = state["train_seconds"]
        size = next((f" ({flag})" for flag in ("tiny", "random_weights") if started["args"].get(flag)), "")
        result = dict(
            script=self.script,
            model=model + size.replace("_", " "),  # else a table of results would take it for the real model
            method=method,
            **parameters,
            gpus=sum(name != "cpu" for name in gpus),
            gpu_name=gpus[0],
            train_batch_size=started["args"]["batch_size"] or started["args"]["update_examples"],
            eval_batch_size=started["args"]["eval_batch_size"],
            updates=state["update"],
            examples_seen=state["examples_seen"],
            train_seconds=seconds,
            train_examples_per_second=state["examples_seen"] / seconds if seconds else None,
            train_tokens_per_second=state["train_tokens"] / seconds if seconds else None,
            utilisation=utilisation(state["train_flops"], seconds, gpus),
            eval_seconds=figures["eval_seconds"],
            eval_examples_per_second=figures["eval_examples_per_second"],
            peak_memory_gib=memory / 2**30,
            execution_accuracy=figures["execution_accuracy"],
            exact_match=figures["exact_match"],
            n=figures["n"],
            data=started["data"]["directory"],
        )
        write_atomically(self.path / "result.json", json.dumps(result, indent=2) + "\n")
        make_or_warn("report.html", page.write, self.path, benchmark, rows, result)
        print(f"{TABLE_HEAD}\n{table_row(result, started)}")
        of = f"{result['n']:,} {started['args'].get('split', 'dev')} examples"
        print(f"execution accuracy {result['execution_accuracy']:.1%} of {of}; the run: {self.path}")


def make_or_warn(name: str, make: Callable[..., None], *arguments: object) -> None:
    """Make a picture or page; print errors, so that none costs a run its result."""
    try:
        make(*arguments)
    except Exception as error:
        print(printable(f"{name} was not made ({type(error).__name__}: {error})"))


def git_state() -> dict:
    """The checkout's commit, and whether files differ from it; both None without git or a checkout."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", Path(__file__).parent, *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def package_version(name: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
