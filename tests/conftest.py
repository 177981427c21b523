"""What the scripts' tests share: a run of a script in this process, with its records."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data.benchmark import sample
from data.run.signals import ENDING


@pytest.fixture(autouse=True, scope="session")
def threads():
    """As many threads as a user's run has on two cores, here and in the processes of tests; fewer beside other tests."""
    import torch

    count = max(1, 2 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    torch.set_num_threads(count)
    os.environ["OMP_NUM_THREADS"] = str(count)


@pytest.fixture(autouse=True, scope="session")
def hangups():
    """Let the processes of tests hear SIGHUP under nohup, too: a program inherits what is ignored, and not what is handled."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)


@pytest.fixture(autouse=True)
def signals():
    """A run in this process listens to signals: afterwards they are pytest's again."""
    handlers = [(number, signal.getsignal(number)) for number in ENDING]
    yield
    for handler in handlers:
        signal.signal(*handler)


@pytest.fixture(scope="session")
def small_sample(tmp_path_factory) -> Path:
    """A little of the sample as a directory of its own, since the whole takes longer to prepare than to train on."""
    whole, folder = sample.build(), tmp_path_factory.mktemp("small") / "sample"
    folder.mkdir()
    for name in ("database", "tables.json"):
        (folder / name).symlink_to(whole / name)
    for name, count in {"train_spider.json": 200, "dev.json": 120}.items():
        (folder / name).write_text(json.dumps(json.loads((whole / name).read_text())[:count]))
    return folder


@pytest.fixture
def little(small_sample, monkeypatch):
    """Runs in this process learn that."""
    monkeypatch.setattr(sample, "build", lambda *directory: small_sample)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(script module, *options, out=name)` runs `main` with --tiny and returns its records, {} where it makes none."""
    from accelerate.state import AcceleratorState, GradientState

    def go(script, *options: str, out: str = "run", tiny: bool = True) -> dict:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        folder = tmp_path / out
        argv = [script.__file__, *(["--tiny"] if tiny else []), "--out", str(folder), *options]
        monkeypatch.setattr(sys, "argv", argv)
        script.main()
        return records(folder) if folder.exists() else {}

    return go


@pytest.fixture
def two_and_two(run):
    """`two_and_two(script, *options)`: the records of four updates in one go, and of a run that is cut off and resumed."""

    def go(script, *options: str) -> tuple[dict, dict]:
        options = (*options, "--max_updates", "4", "--save_every", "2")
        straight = run(script, *options, out="straight")
        real = script.learning_rate

        def rate(args, update, total):
            if update == 3:
                raise KeyboardInterrupt
            return real(args, update, total)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(script, "learning_rate", rate)
            with pytest.raises(KeyboardInterrupt):
                run(script, *options, out="resumed")
        return straight, run(script, *options, "--resume", out="resumed")

    return go


@pytest.fixture
def one_and_two(run, tmp_path, monkeypatch):
    """`one_and_two(script, *options, cut=options)`: the records of a run in this process, and of two processes with `cut`."""

    def go(script, *options: str, cut: tuple[str, ...] = ()) -> tuple[dict, dict]:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # as where the two run
        one = run(script, *options, out="one")
        words = [sys.executable, script.__file__, "--tiny", *options, *cut, "--processes", "2", "--out", str(tmp_path / "two")]
        hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(words, cwd=Path(script.__file__).parent, capture_output=True, text=True, env=hidden, timeout=1800)
        assert done.returncode == 0, done.stdout + done.stderr
        return one, records(tmp_path / "two")

    return go


def deepspeed(ranks: int) -> tuple[list[str], dict]:
    """The launcher's words for so many CPU ranks, and their environment. Its usual port may serve another test's ranks."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    folder = Path(sys.executable).parent
    hidden = os.environ | {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    hidden["PATH"] = f"{folder}:{hidden['PATH']}"
    return [str(folder / "deepspeed"), "--num_accelerators", str(ranks), "--master_port", str(port)], hidden


def records(folder: Path) -> dict:
    """The result, the log, and the loss of each update in `folder`."""
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = {record["update"]: record["loss"] for record in log if record["event"] == "update"}
    result = json.loads((folder / "result.json").read_text())
    predictions = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return dict(folder=folder, result=result, log=log, losses=losses, predictions=predictions)


def wait_for(condition: Callable[[], object], running: Callable[[], object] = lambda: True) -> None:
    """Return once the condition holds; fail where what it waits for is no longer `running`, or hangs."""
    limit = time.monotonic() + 300
    while not condition():
        assert running() and time.monotonic() < limit
        time.sleep(0.01)


def files(path: Path) -> dict[str, str]:
    return {str(file.relative_to(path)): file.read_text(errors="replace") for file in path.rglob("*") if file.is_file()}
