"""The commands of the READMEs name files and options that exist, their links and the layout what is there."""

import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import pytest
from test_imports import ROOMS as IN_ORDER

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
ROOMS = [path.parent for path in sorted((ROOT / "data").glob("*/__init__.py"))]
OF_ROOMS = [room / "README.md" for room in ROOMS if (room / "README.md").exists()]
TEXTS = {path: path.read_text() for path in (ROOT / "README.md", *OF_ROOMS, ROOT / "tests" / "bench" / "README.md")}
BLOCKS = re.findall(r"```bash\n(.*?)```", "".join(TEXTS.values()), re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
SCRIPT = re.compile(r"^(?:\w+=\S+ )?(?:python3|(?:deepspeed|torchrun)(?: --\w+ \S+)*) (\w+)\.py\b(.*)")
# options that are none of ours: deepspeed's, Slurm's, argparse's
OTHERS = {"include", "hostfile", "signal", "help"}


def fields(script: str) -> set[str]:
    return {field.name for field in dataclasses.fields(importlib.import_module(script).Args)}


@pytest.mark.parametrize("command", [c for line in COMMANDS for c in line.split(" && ") if SCRIPT.match(c)])
def test_a_script_and_its_options_exist(command):
    name, rest = SCRIPT.match(command).groups()
    assert (ROOT / f"{name}.py").is_file()
    options = {word.removeprefix("--").removeprefix("no-").split("=")[0] for word in shlex.split(rest) if word.startswith("--")}
    assert options <= fields(name)


@pytest.mark.parametrize("module", sorted({m for text in TEXTS.values() for m in re.findall(r"python3 -m (data\.\w+)", text)}))
def test_a_module_can_be_run(module):
    place = ROOT / module.replace(".", "/")
    path = place / "__main__.py" if (place / "__init__.py").exists() else place.with_suffix(".py")
    assert path.is_file() and '__name__ == "__main__"' in path.read_text()


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_options_and_files_in_the_text_exist(path):
    """What stands in backticks: options of a script, of a module or of a benchmark, and paths from the top or from beside."""
    sources = [*(ROOT / "data").rglob("*.py"), *(ROOT / "tests" / "bench").glob("*.py")]
    known = {name for source in sources for name in re.findall(r'add_argument\("--(\w+)"', source.read_text())}
    known |= OTHERS.union(*(fields(script.stem) for script in ROOT.glob("*.py")))
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXTS[path], flags=re.DOTALL))
    assert {name for span in spans for name in re.findall(r"(?<!\S)--(?:no-)?(\w+)", span)} <= known
    named = {word for span in spans for word in re.findall(r"(?<!\S)(?:data|tests)/(?!spider\b)[\w./]+", span)}
    named |= {word for span in spans for word in re.findall(r"^\w+\.py$", span)}
    assert not {name for name in named if not (ROOT / name).exists() and not (path.parent / name).exists()}


def layout() -> tuple[list[str], list[str]]:
    """The paths that the README's listing names, and the packages in the order of its arrows."""
    block = README.partition("\n## The layout\n")[2].partition("```\n")[2].partition("```")[0]
    paths, above = [], ""
    for line in block.splitlines():
        names = [name for name in line.strip().split("  ")[0].split() if re.fullmatch(r"[\w./]*[./]\w*", name)]
        above = above if line.startswith(" ") else ""
        paths += [above + name for name in names]
        above = names[0] if names and not line.startswith(" ") and names[0].endswith("/") else above
    return paths, [name for line in block.splitlines() if "<-" in line for name in map(str.strip, line.split("<-"))]


def test_the_layout_is_the_repository_s():
    paths, arrows = layout()
    assert not [name for name in paths if not (ROOT / name).exists()]
    scripts = {path.name for path in ROOT.glob("*.py")}
    modules = {f"data/{path.name}" for path in (ROOT / "data").glob("*.py") if path.stem != "__init__"}
    assert scripts | modules | {f"data/{room.name}/" for room in ROOMS} <= set(paths)
    assert arrows == [*IN_ORDER, "scripts"]


def test_there_is_one_test_command():
    assert README.count("<!-- tests -->\n```bash\n") == 1
    (command,) = re.findall(r"<!-- tests -->\n```bash\n(.*?)\n```", README, re.DOTALL)
    assert "pytest" in command and "\n" not in command


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
