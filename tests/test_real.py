"""tests/bench/real.py: its rows are command lines of llama_65b.py, and it tells what they brought."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "tests" / "bench"


def call(*words: str) -> str:
    done = subprocess.run([sys.executable, BENCH / "real.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


def test_the_records_are_of_rows_that_can_be_run_again():
    lines = call("--model", "1.5b=any", "--model", "0.5b=any", "--model", "135m=any", "--rows", "*", "--list").splitlines()
    listed = dict(line.split(":", 1) for line in lines)
    for record in map(json.loads, (BENCH / "real.jsonl").read_text().splitlines()):
        own = listed[record["row"]].split()
        assert record["options"][: len(own)] == own  # those of all rows stand behind them
        assert record["right"].count("1") == round(record["execution_accuracy"] * record["n"]) and record["n"] == 1034


def test_the_table_compares_rows_with_those_they_differ_from():
    lines = call("--records", str(BENCH / "real.jsonl")).splitlines()
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in lines}
    assert cells["1.5b-default"][3].startswith("81.7% (82.9%, 82.1%, 81.1%, 80.9%)")
    assert cells["1.5b-rate-5e-4"][3].startswith("79.4% (76.8% to 81.8%)") and cells["1.5b-default"][5].startswith("82.5%")
    assert cells["1.5b-rate-5e-4"][-1].startswith("-2.3 (-3.8 to -0.9), default")
    assert cells["1.5b-bf16-rate-5e-4"][-1].startswith("+1.4 (-0.4 to +3.1), rate-5e-4")


@pytest.mark.slow
def test_a_row_is_trained_asked_and_not_run_again(tmp_path):
    words = ("--smoke", "--model", "tiny=any", "--data", "sample", "--out", str(tmp_path), "--rows", "tiny-bf16")
    words += ("--options", "--max_updates 2 --eval_examples 4 --max_output_tokens 8")
    first = call(*words)
    assert all(f"tiny-bf16, {way}: " in first for way in ("constrained", "free", "4"))
    assert json.loads((tmp_path / "tiny-bf16.4.json").read_text())["method"] == "LoRA, not quantised"
    assert "s in all" not in call(*words)
    (tmp_path / "tiny-bf16.constrained.json").unlink()  # as where an evaluation has failed
    log = tmp_path / "tiny-bf16" / "log.jsonl"
    made = [line for line in log.read_text().splitlines() if "update" in line and "seconds" in line and "loss" in line]
    again = call(*words)
    assert again.count("s in all") == 1 and "tiny-bf16, constrained: " in again
    assert len(made) == 2 and set(made) <= set(log.read_text().splitlines())  # with the seconds that they took then
