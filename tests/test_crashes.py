"""What can happen to a run of days: signals, kill -9 at any moment, a full disk. It goes on as if nothing had been."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from conftest import deepspeed, records, wait_for

from data.run.checkpoints import unseal
from data.run.signals import ENDING

ROOT = Path(__file__).resolve().parent.parent
FEW = ["--tiny", "--update_examples", "8", "--eval_every", "3", "--eval_examples", "4", "--max_output_tokens", "8"]
SCRIPTS = ["flan_t5_base", "T5_3B"]
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def small(small_sample):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "FEW", [*FEW, "--data", str(small_sample)])
        yield


# imports the script once, and forks for each line: most of a short run's time would be imports. A line has a signal that the
# run sends itself, its update, and options
STARTER = """
import importlib, os, shlex, sys
sys.path.insert(0, os.getcwd())
script = importlib.import_module(sys.argv[1])
import data.report.page, data.report, deepspeed, matplotlib.figure
from data.common.errors import exit_on_user_error
for line in sys.stdin:
    if pid := os.fork():
        print(pid, flush=True)
        print("ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        continue
    number, at, *options = shlex.split(line)
    def rate(args, update, total, real=script.learning_rate):
        if update == int(at):
            os.kill(os.getpid(), int(number))
        return real(args, update, total)
    script.learning_rate = rate
    sys.argv = [script.__file__, *options]
    output = os.open(os.environ["OUTPUT"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0); os.dup2(output, 1); os.dup2(output, 2)
    exit_on_user_error(script.main)
    sys.stdout.flush()
    os._exit(0)
"""


class Starter:
    """Runs of one script, each in a fork of a process that has imported it."""

    def __init__(self, script: str, output: Path):
        self.script, self.output, self.before = script, output, 0
        output.touch()
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OUTPUT": str(output), "OMP_NUM_THREADS": "1"}
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process = subprocess.Popen([sys.executable, "-c", STARTER, script], cwd=ROOT, env=environment, **pipes)

    def said(self) -> str:
        """What the run that was started last has printed."""
        return self.output.read_text()[self.before :]

    def start(self, *options: object, number: int = 0, at: int = -1) -> int:
        """The process of a run, which goes on in the background; at the update `at` it gets the signal `number`."""
        self.before = len(self.output.read_text())
        self.process.stdin.write(" ".join(map(str, (int(number), at, *options))) + "\n")
        self.process.stdin.flush()
        while not (line := self.process.stdout.readline()).strip().isdigit():
            assert line, self.output.read_text()
        return int(line)

    def ended(self) -> int:
        """The exit code of the run that was started last, once it ends."""
        return int(self.process.stdout.readline().removeprefix("ended "))

    def run(self, *options: object, **signalled: int) -> int:
        self.start(*options, **signalled)
        return self.ended()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in SCRIPTS])
def starter(request, tmp_path_factory):
    made = Starter(request.param, tmp_path_factory.mktemp(request.param) / "output")
    yield made
    made.close()


def outcome(folder: Path) -> tuple:
    """What a run comes to, apart from the time it took."""
    done = records(folder)
    accuracies = {r["update"]: r["execution_accuracy"] for r in done["log"] if r["event"] == "evaluation"}
    counts = {name: done["result"][name] for name in ("updates", "examples_seen", "execution_accuracy", "exact_match", "n")}
    return done["losses"], accuracies, [row["predicted"] for row in done["predictions"]], counts


def saved(folder: Path, script: str) -> int | None:
    """The update of the last whole checkpoint, None where there is none."""
    for name in ("last", "last.old"):
        if (folder / name / "checkpoint.json").exists():
            return unseal(folder / name, script, "")["state"]["update"]
    return None


def alive(pid: int):
    return Path(f"/proc/{pid}").exists


def handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    mask = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2].split()[0]
    return bool(int(mask, 16) >> number - 1 & 1)


def test_kill_9_at_any_moment_costs_only_the_updates_since_the_last_save(starter, tmp_path):
    options = [*FEW, "--max_updates", "8", "--save_every", "2"]
    assert starter.run(*options, "--out", tmp_path / "straight") == 0
    expected = outcome(tmp_path / "straight")
    assert sorted(expected[0]) == list(range(8)) and sorted(expected[1]) == [0, 3, 6, 8]
    rng, seen = random.Random(0), []
    for trial in range(8):
        out = tmp_path / f"killed{trial}"
        began = time.monotonic()
        pid = starter.start(*options, "--out", out)
        wait_for(partial(has_made, out, trial), alive(pid))
        # anywhere in the update that comes next, its save and its evaluation, however fast the machine is just now
        time.sleep((time.monotonic() - began) * rng.random() / 8)
        if alive(pid)():
            os.kill(pid, signal.SIGKILL)
        killed = starter.ended()
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines(keepends=True) if line.endswith("\n")]
        update = max((record["update"] + 1 for record in log if record["event"] == "update"), default=0)
        at = saved(out, starter.script)
        seen.append((killed, at, update))
        if at is None:  # before the first save: there is nothing to resume, and the script says so
            assert update <= 2 and starter.run(*options, "--out", out, "--resume") == 2
            continue
        assert at >= 2 * ((update - 1) // 2)
        assert starter.run(*options, "--out", out, "--resume") == 0, starter.said()[-3000:]
        assert outcome(out) == expected
        left = {path.name for path in out.iterdir()}
        assert not [name for name in left if name.endswith((".tmp", ".old"))] and {"last", "best", "result.json"} <= left
        shutil.rmtree(out)
    assert sum(killed == -signal.SIGKILL and at is not None for killed, at, _ in seen) >= 4, seen


def has_made(folder: Path, count: int) -> bool:
    return (folder / "log.jsonl").exists() and updates(folder) >= count


def updates(folder: Path) -> int:
    path = folder / "log.jsonl"
    return path.read_text().count('"event": "update"') if path.exists() else 0


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_a_run_after_its_update_and_it_goes_on(starter, tmp_path, number):
    options = [*FEW, "--max_updates", "6", "--save_every", "0"]
    assert starter.run(*options, "--out", tmp_path / "straight") == 0
    out = tmp_path / "stopped"
    assert starter.run(*options, "--out", out, number=number, at=2) == 128 + number
    assert saved(out, starter.script) == updates(out) == 3
    assert f"stopped before update 3, saved in {out}/last: the same command with --resume goes on" in starter.said()
    assert starter.run(*options, "--out", out, "--resume") == 0
    assert outcome(out) == outcome(tmp_path / "straight")


def test_a_signal_during_an_evaluation_repeats_the_evaluation(starter, tmp_path):
    options = [*FEW, "--max_updates", "4", "--save_every", "0", "--eval_examples", "100", "--eval_batch_size", "1"]
    out = tmp_path / "stopped"
    pid = starter.start(*options, "--out", out)
    wait_for(lambda: handles(pid, signal.SIGTERM), alive(pid))  # the evaluation at update 0, which takes seconds, is next
    os.kill(pid, signal.SIGTERM)
    assert starter.ended() == 128 + signal.SIGTERM
    assert saved(out, starter.script) == 0 and "evaluation" not in (out / "log.jsonl").read_text()
    assert starter.run(*options, "--out", out, "--resume") == 0
    assert sorted(outcome(out)[1]) == [0, 3, 4]


def test_a_second_signal_ends_a_run_at_once(starter, tmp_path):
    options = [*FEW, "--max_updates", "400", "--save_every", "0", "--update_examples", "512"]
    pid = starter.start(*options, "--out", tmp_path / "run")
    wait_for(lambda: updates(tmp_path / "run") >= 1, alive(pid))
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: "stopping after this update" in starter.said(), alive(pid))
    os.kill(pid, signal.SIGTERM)
    assert starter.ended() == 128 + signal.SIGTERM
    assert not (tmp_path / "run" / "last").exists()


def small_disk(folder: Path, megabytes: int) -> list[str]:
    """Words that run a command with `folder` on a file system of so many megabytes, which goes with the command."""
    folder.mkdir()
    mount = f'mount -t tmpfs -o size={megabytes}m none {folder} && exec "$@"'
    words = ["unshare", "--mount", "--map-root-user", "bash", "-c", mount, "bash"]
    tried = subprocess.run([*words, "true"], capture_output=True, text=True) if shutil.which("unshare") else None
    if tried is None or tried.returncode:
        pytest.skip("no small file system can be mounted here")
    return words


@pytest.mark.parametrize(("script", "megabytes"), [("flan_t5_base", 16), ("T5_3B", 20), ("llama_65b", 16)])
def test_a_disk_that_is_full_leaves_the_checkpoint_before_it(tmp_path, script, megabytes):
    """One checkpoint fits, a second beside it does not."""
    disk = tmp_path / "disk"
    options = [*FEW, "--eval_every", "0", "--max_updates", "4", "--save_every", "2", "--out", str(disk / "run")]
    # what lies on the small disk goes with it: look from inside
    look = f"{sys.executable} {script}.py {' '.join(options)}; echo code $?; cp -r {disk}/run {tmp_path}/copy"
    words = small_disk(disk, megabytes)
    done = subprocess.run([*words, "bash", "-c", look], cwd=ROOT, capture_output=True, text=True, timeout=300)
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "code 2" in done.stdout and "Traceback" not in done.stderr, done.stderr[-3000:]
    assert len(said) == 1 and "no space left on the disk of" in said[0] and "--resume" in said[0]
    assert saved(tmp_path / "copy", script) == 2
    again = [sys.executable, f"{script}.py", *options[:-1], str(tmp_path / "copy"), "--resume"]
    subprocess.run(again, cwd=ROOT, check=True, capture_output=True, timeout=300)
    assert sorted(records(tmp_path / "copy")["losses"]) == [0, 1, 2, 3]


def launched(out: Path, script: str, *options: str) -> tuple[list[str], dict]:
    """A command that starts two ranks, and its environment."""
    words, environment = deepspeed(2)
    words = [*words, "T5_3B.py"] if script == "T5_3B" else [sys.executable, f"{script}.py", "--processes", "2"]
    return [*words, *FEW, "--save_every", "0", "--out", str(out), *options], environment


@pytest.mark.parametrize(
    ("script", "number", "everyone"),
    [
        *(("flan_t5_base", number, True) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)),
        ("flan_t5_base", signal.SIGTERM, False),
        *(("T5_3B", number, True) for number in (signal.SIGTERM, signal.SIGINT)),
    ],
)
def test_a_signal_to_a_launcher_ends_all_ranks_after_the_same_update(tmp_path, script, number, everyone):
    """`everyone`: it reaches every process at once, as Ctrl-C or a batch system's SIGTERM does; else the launcher alone."""
    out = tmp_path / "run"
    words, environment = launched(out, script, "--max_updates", "300", "--eval_every", "0")
    with (tmp_path / "output").open("w") as output:
        started = dict(cwd=ROOT, env=environment, start_new_session=True, stdout=output, stderr=subprocess.STDOUT)
        process = subprocess.Popen(words, **started)
    wait_for(lambda: updates(out) >= 3, lambda: process.poll() is None)
    os.killpg(process.pid, number) if everyone else process.send_signal(number)
    assert process.wait(timeout=300) != 0
    wait_for(lambda: not ranks_of(out))
    text = (tmp_path / "output").read_text()
    at = saved(out, script)
    assert at is not None and 3 <= at < 300 and at == updates(out), text[-3000:]
    assert text.count("the same command with --resume goes on") == 1
    if number != signal.SIGINT:  # what is saved depends on no signal: one resumes of each launcher
        return
    words, environment = launched(out, script, "--max_updates", str(at + 2), "--eval_every", "0", "--resume")
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(records(out)["losses"]) == list(range(at + 2))


def ranks_of(out: Path) -> list[int]:
    """The processes that have this run's folder on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(out) in (entry / "cmdline").read_bytes().decode().split("\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found
