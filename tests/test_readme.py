"""The commands of the READMEs name files and options that exist, their links what is there."""

import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
TEXTS = {path: path.read_text() for path in (ROOT / "README.md", ROOT / "tests" / "bench" / "README.md")}
BLOCKS = re.findall(r"```bash\n(.*?)```", "".join(TEXTS.values()), re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
SCRIPT = re.compile(r"^(?:python3|deepspeed) (\w+)\.py\b(.*)")


@pytest.mark.parametrize("command", [c for line in COMMANDS for c in line.split(" && ") if SCRIPT.match(c)])
def test_a_script_and_its_options_exist(command):
    name, rest = SCRIPT.match(command).groups()
    assert (ROOT / f"{name}.py").is_file()
    fields = {field.name for field in dataclasses.fields(importlib.import_module(name).Args)}
    options = {word.removeprefix("--").removeprefix("no-").split("=")[0] for word in shlex.split(rest) if word.startswith("--")}
    assert options <= fields


@pytest.mark.parametrize("module", sorted({m for line in COMMANDS for m in re.findall(r"python3 -m (data\.\w+)", line)}))
def test_a_module_can_be_run(module):
    path = ROOT / (module.replace(".", "/") + ".py")
    assert path.is_file() and '__name__ == "__main__"' in path.read_text()


def test_every_file_the_table_names_exists():
    for cell in re.findall(r"^\| (`.*?) \|", README, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", cell):
            assert (ROOT / name).exists(), name


def test_there_is_one_test_command():
    assert README.count("<!-- tests -->\n```bash\n") == 1


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXTS[path]) if "://" not in link]
    assert links
    for name, anchor in (link.partition("#")[::2] for link in links):
        target = (path.parent / name).resolve() if name else path
        assert target.is_file(), name
        headings = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE) if anchor else []
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, anchor
