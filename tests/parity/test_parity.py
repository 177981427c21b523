"""What differs between neighbouring scripts is kept here: a change to what they share has to be made in all of them.

python3 tests/parity/test_parity.py     writes the differences anew, to be read before they are committed
"""

import difflib
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NEIGHBOURS = [("T5_3B", "flan_t5_base"), ("flan_t5_base", "gpt_neox_20b"), ("gpt_neox_20b", "llama_65b")]


def difference(first: str, second: str) -> str:
    """The lines in which two scripts differ, without line numbers."""
    texts = [(ROOT / f"{name}.py").read_text().splitlines() for name in (first, second)]
    lines = difflib.unified_diff(*texts, first, second, lineterm="", n=0)
    return "".join(("@@" if line.startswith("@@") else line) + "\n" for line in lines)


@pytest.mark.parametrize(("first", "second"), NEIGHBOURS)
def test_scripts_differ_where_they_are_meant_to(first, second):
    same = difference(first, second) == (HERE / f"{first}--{second}.diff").read_text()
    assert same, f"{first}.py and {second}.py differ anew: change both, or accept it with python3 tests/parity/test_parity.py"


if __name__ == "__main__":
    for names in NEIGHBOURS:
        (HERE / "{}--{}.diff".format(*names)).write_text(difference(*names))
