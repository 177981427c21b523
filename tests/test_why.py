"""Rows of tests/bench/why.py are trained, answered and scored on a few examples of the sample."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

import llama_65b
from data.benchmark import sample, spider

WHY = Path(__file__).parent / "bench" / "why.py"
ROWS = ["published", "qlora-8-0.003", "recipe-0.0004"]


@pytest.mark.slow
def test_rows_with_all_faults_of_qlora_and_of_the_recipe(tmp_path):
    whole, directory = Path(sample.build()), tmp_path / "data"
    directory.mkdir()
    for name in ("database", "tables.json", "dev.json"):
        (directory / name).symlink_to(whole / name)
    few = json.loads((whole / "train_spider.json").read_text())[:16]  # all of them take a minute to encode
    (directory / "train_spider.json").write_text(json.dumps(few))
    tokenizer = llama_65b.load_tokenizer(replace(llama_65b.Args(), tiny=True), spider.load(directory))
    config = llama_65b.Config(**(llama_65b.TINY_CONFIG | dict(num_hidden_layers=1)))
    for part in (AutoModelForCausalLM.from_config(config), tokenizer):
        part.save_pretrained(tmp_path / "model")
    words = ["--model", str(tmp_path / "model"), "--data", str(directory), "--out", str(tmp_path), "--rows", ",".join(ROWS)]
    words += ["--records", str(tmp_path / "rows.jsonl"), "--dev_examples", "2", "--keep"]
    said = subprocess.run([sys.executable, str(WHY), *words], check=True, capture_output=True, text=True).stdout
    assert "was not done" not in said
    found = {record["row"]: record for record in map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())}
    assert set(found) == set(ROWS)
    assert all(record["n"] == 2 and record["updates"] == record["epochs"] for record in found.values())
    assert (tmp_path / "why.png").stat().st_size > 10_000
    # one of the models that were kept answers under the grammar, with one candidate and with four
    words = ["--model", str(tmp_path / "model"), "--data", str(directory), "--runs", str(tmp_path), "--rows", ROWS[-1]]
    words += ["--out", str(tmp_path / "answers"), "--ways", "held,held-4", "--dev_examples", "2", "--new_tokens", "8"]
    answers = [sys.executable, str(WHY.with_name("answers.py")), *words]
    said = subprocess.run(answers, check=True, capture_output=True, text=True).stdout
    kept = [json.loads((tmp_path / "answers" / f"{ROWS[-1]}.{way}.json").read_text()) for way in ("held", "held-4")]
    assert [record["n"] for record in kept] == [2, 2] and not any(record["unchecked"] for record in kept)
    assert "| held-4 | 1 |" in said
