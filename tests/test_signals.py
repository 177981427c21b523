"""Signals are noted, and the second of them ends the process; `tests/test_crashes.py` sends them to runs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data.run.signals import ENDING

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import os, signal, sys, time
from data.run.signals import Stop
number, ignored = int(sys.argv[1]), sys.argv[2] == "ignored"
if ignored:
    signal.signal(number, signal.SIG_IGN)
stop = Stop()
stop.listen()
assert not stop.requested
os.kill(os.getpid(), number)
print("went on", stop.requested, flush=True)
if len(sys.argv) > 3:
    os.kill(os.getpid(), number)
stop.leave(7, "runs/last")
"""


def ended(number: int, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", PROGRAM, str(int(number)), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_is_noted_and_its_number_is_the_exit_code(number):
    done = ended(number, "heard")
    assert done.returncode == 128 + number, done.stderr
    said = ["went on True", "stopped before update 7, saved in runs/last: the same command with --resume goes on"]
    assert done.stdout.splitlines() == said
    assert done.stderr == "stopping after this update; a second signal stops at once\n"


def test_a_terminal_that_is_gone_ends_a_run_in_order():
    terminal, other = os.openpty()
    words = [sys.executable, "-c", PROGRAM.replace("os.kill", "sys.stdin.read(); os.kill", 1), str(int(signal.SIGHUP)), "heard"]
    process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=other, stderr=other)
    os.close(other)
    os.close(terminal)  # from here on writing to it is an error
    process.stdin.close()
    assert process.wait(timeout=60) == 128 + signal.SIGHUP


@pytest.mark.parametrize("lines", [1, 100_000])
def test_what_nobody_reads_ends_no_run(lines):
    code = f"""
import sys
from data.run.signals import Stop
Stop().listen()
sys.stdin.read()
print("a\\n" * {lines}, flush=True)
print("went on", file=sys.stderr)
"""
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as process:
        process.stdout.close()
        process.stdin.close()
        assert (process.stderr.read(), process.wait(timeout=60)) == (b"went on\n", 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_log_on_a_full_disk_ends_no_run():
    code = "from data.run.signals import Stop; Stop().listen(); print('a', flush=True); print('b', flush=True)"
    with open("/dev/full", "w") as full:
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=full, timeout=60).returncode == 0


@pytest.mark.parametrize("number", ENDING)
def test_a_second_signal_ends_at_once(number):
    done = ended(number, "heard", "twice")
    assert done.returncode == 128 + number and done.stdout == "went on True\n"


def test_a_run_under_nohup_outlives_its_terminal():
    assert ended(signal.SIGHUP, "ignored").stdout.startswith("went on False\n")


def test_a_launcher_takes_for_sigterm_what_it_does_not_know():
    code = """
import os, signal, sys
from data.run.signals import for_launcher
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(15))
for_launcher()
os.kill(os.getpid(), signal.SIGUSR1)
signal.pause()
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 15
