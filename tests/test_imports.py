"""What people who only read or score need not install or wait for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(f"data.{path.stem}" for path in (ROOT / "data").glob("*.py") if path.stem != "__init__")


def python(code: str, *options: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, env=environment, timeout=60)


def test_all_of_data_is_there():
    names = ("ask", "batches", "cache", "checkpoints", "errors", "execute", "files", "hardware", "page", "prompt", "report")
    names += ("run", "sample", "score", "signals", "spider", "sql", "training", "words")
    assert {f"data.{name}" for name in names} <= set(MODULES)


@pytest.mark.parametrize("blocked", ["torch", "transformers"])
def test_data_does_without(blocked):
    done = python(f"import sys; sys.modules[{blocked!r}] = None; import data, {', '.join(MODULES)}")
    assert done.returncode == 0, done.stderr


def test_data_brings_no_model_library_with_it():
    done = python(f"import sys, data, {', '.join(MODULES)}; print(*sys.modules)")
    heavy = {"torch", "transformers", "datasets", "tokenizers", "accelerate", "peft", "bitsandbytes", "numpy", "matplotlib"}
    assert done.returncode == 0, done.stderr
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["data.spider", "data.prompt", "data.execute", "data.score", "data.sql", "data.sample", "data.page", "data.ask"]
)
def test_reading_and_scoring_need_the_standard_library_only(module):
    """-S: nothing that is installed can be found."""
    done = python(f"import {module}", "-S")
    assert done.returncode == 0, done.stderr
