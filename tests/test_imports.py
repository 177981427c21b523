"""What people who only read or score need not install or wait for, and which room may import from which."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("common", "sqlite", "benchmark", "answers", "report", "training", "run", "with_torch")
FILES = sorted(path for path in (ROOT / "data").rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if path.parent.name != "with_torch"]
COMMANDS = {"data.spider", "data.sample", "data.score", "data.grammar", "data.page"}


def python(code: str, *options: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, env=environment, timeout=60)


def imported(path: Path) -> set[str]:
    """The modules of `data` that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are written with their whole names"
            modules = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from data.report import page` names a module, `from data.report.page import write` a part of one
            found |= {name if (ROOT / f"{name.replace('.', '/')}.py").exists() else node.module for name in modules}
    return {name for name in found if name.split(".")[0] == "data"}


def test_every_module_stands_in_a_room_or_is_a_command():
    assert {path.name for path in (ROOT / "data").iterdir() if (path / "__init__.py").exists()} == set(ROOMS)
    assert {name for name in MODULES if name.count(".") == 1} == COMMANDS
    for room in ROOMS:
        assert ast.get_docstring(ast.parse((ROOT / "data" / room / "__init__.py").read_text())), room


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    """From a room to its own modules and to rooms before it; nothing but a command imports what stands beside the rooms."""
    room = path.parent.name
    for name in imported(path):
        assert name.split(".")[1] in ROOMS, f"{path.name} imports {name}"
        assert room == "data" or ROOMS.index(name.split(".")[1]) <= ROOMS.index(room), f"{path.name} imports {name}"


def test_no_imports_run_in_a_circle():
    arrows = {name: imported(path) for name, path in zip(MODULES, (f for f in FILES if f.parent.name != "with_torch"))}
    while free := {name for name, needed in arrows.items() if not needed & arrows.keys()}:
        arrows = {name: needed for name, needed in arrows.items() if name not in free}
    assert not arrows


@pytest.mark.parametrize("path", [*FILES, *sorted(ROOT.glob("*.py"))], ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_imported_is_pinned(path):
    """Also what another package happens to bring along: one day it may not, or in another version."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = {line.split("==")[0] for line in lines if "==" in line}
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= pinned | sys.stdlib_module_names | {"data"}


@pytest.mark.parametrize("script", sorted(ROOT.glob("*.py")), ids=lambda path: path.name)
def test_a_script_imports_rooms_and_no_other_script(script):
    names = {path.stem for path in ROOT.glob("*.py")}
    assert all(name.split(".")[1] in ROOMS for name in imported(script))
    assert not names & {alias.name for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.Import)
                        for alias in node.names}  # fmt: skip


@pytest.mark.parametrize("script", sorted(ROOT.glob("*.py")), ids=lambda path: path.name)
def test_a_script_is_read_in_a_sitting(script):
    text = script.read_text()
    assert len(text.splitlines()) <= 550
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 80, node.name


@pytest.mark.parametrize("script", sorted(ROOT.glob("*.py")), ids=lambda path: path.name)
@pytest.mark.parametrize(
    ("option", "code", "says"),
    [
        ("--help", 0, "--learning_rate"),
        ("--learning_rate=2", 2, "--learning_rate 2.0 is out of range"),
        ("--rate=2", 2, "rate"),
    ],
)
def test_a_script_reads_its_options_before_it_loads_torch(script, option, code, says):
    done = python(f"""
import runpy, sys
class Watch:
    def find_spec(self, name, *rest):
        if name == "torch":
            raise SystemExit("torch is loaded")
sys.meta_path.insert(0, Watch())
sys.argv = [{str(script)!r}, {option!r}]
runpy.run_path({str(script)!r}, run_name="__main__")
""")
    assert done.returncode == code and says in done.stdout + done.stderr, done.stderr


@pytest.mark.parametrize("blocked", ["torch", "transformers"])
def test_data_does_without(blocked):
    done = python(f"import sys; sys.modules[{blocked!r}] = None; import data, {', '.join(MODULES)}")
    assert done.returncode == 0, done.stderr


def test_data_brings_no_model_library_with_it():
    done = python(f"import sys, data, {', '.join(MODULES)}; print(*sys.modules)")
    heavy = {"torch", "transformers", "datasets", "tokenizers", "accelerate", "peft", "bitsandbytes", "numpy", "matplotlib"}
    assert done.returncode == 0, done.stderr
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize("room", ROOMS[: ROOMS.index("run")])
def test_reading_and_scoring_need_the_standard_library_only(room):
    """-S: nothing that is installed can be found."""
    names = [name for name in MODULES if name.split(".")[1] == room or name in COMMANDS]
    done = python(f"import {', '.join(names)}", "-S")
    assert done.returncode == 0, done.stderr
