"""Pictures and tables of runs: from whole logs and broken ones."""

import json
import re
import struct
import sys

import pytest

from data.common.errors import UserError, exit_on_user_error
from data.report import curves

RESULT = dict(script="llama_65b", model="a|b/$model_x$", method="QLoRA NF4", parameters=65_306_632_192,
              trainable_parameters=20_971_520, gpus=8, gpu_name="NVIDIA RTX A6000", train_batch_size=4, eval_batch_size=24,
              updates=3, train_examples_per_second=2.0, eval_examples_per_second=0.5, train_tokens_per_second=964.5,
              peak_memory_gib=42.06, utilisation=0.25, execution_accuracy=0.5, exact_match=0.25, n=4)  # fmt: skip
STARTED = dict(script="llama_65b", started="2026-11-24T10:00:00+0000", git=dict(commit="0123456789", dirty=True),
               gpus=["cpu"], args=dict(model="a|b/$model_x$", tiny=False, batch_size=4, update_examples=8, seed=0))  # fmt: skip


def update(number: int, loss: float = 1.0) -> dict:
    return dict(event="update", update=number, loss=loss, learning_rate=1e-4, seconds=0.5, tokens=100)


def evaluation(number: int, accuracy: float = 0.5) -> dict:
    interval = dict(execution_accuracy_low=accuracy / 2, execution_accuracy_high=min(1, 2 * accuracy))
    return dict(event="evaluation", update=number, execution_accuracy=accuracy, exact_match=accuracy / 2, n=4) | interval


def run(path, records, started=STARTED, result=None, right=None):
    """A run's folder with this log, perhaps a result, and predictions that are right or not."""
    path.mkdir()
    (path / "args.json").write_text(json.dumps(started))
    (path / "log.jsonl").write_text("".join(json.dumps(r) + "\n" if isinstance(r, dict) else r for r in records))
    if result:
        (path / "result.json").write_text(json.dumps(result))
    if right is not None:
        rows = [json.dumps(dict(index=i, execution_match=hit)) + "\n" for i, hit in enumerate(right)]
        (path / "predictions.jsonl").write_text("".join(rows))
    return path


def size(path) -> tuple[int, int]:
    """Width and height of a PNG (https://www.w3.org/TR/png/, section 11.2.1)."""
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", head[16:])


WHOLE = [evaluation(0, 0.0), *(update(i, 3 / (i + 1)) for i in range(120)), evaluation(120, 0.7)]


@pytest.mark.parametrize(
    "records",
    [
        WHOLE,
        [],
        [evaluation(0)],
        [update(0)],
        [update(0), update(1, float("nan")), update(2), '{"event": "upd'],
        ["[]\n", "7\n", '{"event": "update"}\n', '{"event": "other", "update": 1}\n', "\n"],
        [dict(event="update", update=0, loss=1.0, learning_rate=0.0, seconds=0.0, tokens=0)],
        [update(0), update(1, 10**400), "[" * 100_000 + "\n"],
    ],
)
def test_any_log_is_drawn(tmp_path, records):
    folder = run(tmp_path / "run", records)
    curves.curves(folder)
    assert size(folder / "curves.png") == (1210, 726)
    assert not list(folder.glob("*.tmp"))


def test_of_two_records_of_an_update_the_later_counts(tmp_path):
    folder = run(tmp_path / "run", [update(0, 9.0), update(1, 8.0), evaluation(0, 0.1), update(1, 2.0), evaluation(0, 0.2)])
    updates, evaluations = curves.read_log(folder)
    assert [record["loss"] for record in updates] == [9.0, 2.0]
    assert [record["execution_accuracy"] for record in evaluations] == [0.2]


def test_the_running_mean_looks_back():
    assert curves.smoothed([4.0, 2.0, 0.0, 1.0], 2) == [4.0, 3.0, 1.0, 0.5]
    assert curves.smoothed([], 5) == []


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("| ").replace("\\|", "¦").split("|")]


def test_a_row_stands_under_its_heads():
    row = dict(zip(cells(curves.TABLE_HEAD.splitlines()[0]), cells(curves.table_row(RESULT, STARTED)), strict=True))
    assert row["trainable of all"] == "20,971,520 of 65,306,632,192" and row["model"] == "a¦b/$model_x$"
    assert row["hardware"] == "8 x NVIDIA RTX A6000" and row["batch"] == "4 / 24" and row["commit"] == "0123456+"
    assert row["execution accuracy"] == "50.0%" and row["exact match"] == "25.0%" and row["n"] == "4"
    assert row["date"] == "2026-11-24" and row["examples/s"] == "2"


def test_what_a_run_does_not_have_is_a_dash():
    bare = RESULT | dict(gpus=0, gpu_name="cpu", train_examples_per_second=None)
    row = cells(curves.table_row(bare, STARTED | dict(git=dict(commit=None, dirty=None))))
    assert row[4] == "cpu" and row[6] == row[10] == "-"


def test_runs_are_compared_in_one_table_and_one_picture(tmp_path):
    first = run(tmp_path / "first", WHOLE, result=RESULT, right=[True, False, False, False])
    other = STARTED | dict(args=STARTED["args"] | dict(seed=1))
    second = run(tmp_path / "second", WHOLE, other, RESULT, right=[True, True, True, False])
    going = run(tmp_path / "going", WHOLE[:50])
    lines = curves.compare([first, second, going], tmp_path / "out.png").splitlines()
    assert size(tmp_path / "out.png")[0] == 1210
    assert lines[2].startswith("| first | llama_65b | a\\|b/$model_x$ | QLoRA NF4 | 1 x cpu | 8 | 3 | 2 | 964 | 25% |")
    assert "| 42.1 | 50.0% (15.0% to 85.0%)" in lines[2]
    assert "| +50.0 (-16.6 to +83.2) points |" in lines[3]
    assert "| 49, no result yet | 16 | 200 | unknown | - |" in lines[4]
    assert "| 0.0% (0.0% to 0.0%) |" in lines[4] and lines[4].endswith("| - |")
    assert lines[5:] == ["--seed: 0, 1, 0"]


@pytest.mark.parametrize("gpus", [["cpu"], ["GPU"] * 4])
def test_an_update_has_as_many_examples_as_its_option_says_whatever_the_gpus(tmp_path, monkeypatch, gpus):
    folder = run(tmp_path / "new", WHOLE[:50], STARTED | dict(gpus=gpus))
    row = cells(curves.compare([folder], tmp_path / "out.png").splitlines()[2])
    assert row[5:8] == ["8", "49, no result yet", "16"]
    figure = drawn(monkeypatch, curves.compare, [folder], tmp_path / "out.png")
    assert {round(float(line.get_xdata()[-1])) for line in figure.axes[0].lines} == {49 * 8}


def test_a_paired_difference_counts_the_examples_that_differ():
    same = [True] * 90 + [False] * 10
    middle, low, high = curves.difference(same, same)
    assert middle == 0 and low == -high and 0 < high < 0.03
    middle, low, high = curves.difference(same, [True] * 100)
    assert middle == pytest.approx(0.1) and 0.03 < low < 0.1 < high < 0.17


@pytest.mark.parametrize("broken", ["args.json", "log.jsonl", "predictions.jsonl", "result.json"])
def test_what_is_no_run_ends_in_one_line(tmp_path, monkeypatch, capsys, broken):
    first = run(tmp_path / "first", WHOLE, result=RESULT, right=[True])
    bad = run(tmp_path / "bad", WHOLE, result=RESULT, right=[True])
    (bad / broken).unlink() if broken == "log.jsonl" else (bad / broken).write_text("{")
    monkeypatch.setattr(sys, "argv", ["report", str(first), str(bad), "--out", str(tmp_path / "out.png")])
    with pytest.raises(SystemExit) as caught:
        exit_on_user_error(curves.main)
    said = capsys.readouterr().err.strip()
    assert caught.value.code == 2 and f"bad/{broken}" in said and len(said.splitlines()) == 1
    assert not (tmp_path / "out.png").exists()


def test_a_picture_that_cannot_be_written(tmp_path):
    folder = run(tmp_path / "run", WHOLE)
    with pytest.raises(UserError, match="cannot be written .*: name another file with --out"):
        curves.compare([folder], tmp_path / "none" / "out.png")


def drawn(monkeypatch, call, *arguments):
    """The figure that a call draws."""
    figures = []
    monkeypatch.setattr(curves, "write_picture", lambda figure, path: (figure.draw_without_rendering(), figures.append(figure)))
    call(*arguments)
    return figures[0]


def test_updates_stand_at_whole_numbers(tmp_path, monkeypatch):
    figure = drawn(monkeypatch, curves.curves, run(tmp_path / "run", [update(i) for i in range(20)]))
    assert all(tick == int(tick) for axis in figure.axes for tick in axis.get_xticks())


def test_every_run_stands_in_the_key_under_its_name(tmp_path, monkeypatch):
    folders = [run(tmp_path / name, records) for name, records in (("_a_$b$", WHOLE), ("new", []))]
    figure = drawn(monkeypatch, curves.compare, folders, tmp_path / "out.png")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [r"_a_\$b\$", "new"]


def test_no_paired_difference_of_other_examples(tmp_path):
    """Two benchmarks of equal size count their examples alike."""
    runs = [run(tmp_path / name, WHOLE, result=RESULT) for name in ("first", "second")]
    for folder in runs:
        row = dict(index=0, db_id=folder.name, gold="SELECT 1", execution_match=True)
        (folder / "predictions.jsonl").write_text(json.dumps(row))
    assert curves.compare(runs, tmp_path / "out.png").splitlines()[3].endswith("| - |")


def test_a_result_of_the_scorer_alone_and_args_without_options(tmp_path):
    scored = dict(execution_accuracy=0.5, exact_match=0.25, n=4)
    folder = run(tmp_path / "run", [], STARTED | dict(args=None, gpus=None), scored)
    assert "| 50.0% (15.0% to 85.0%) | 25.0% | 4 |" in curves.compare([folder], tmp_path / "out.png")
    curves.curves(folder)


def test_a_table_steers_no_terminal(tmp_path):
    folder = run(tmp_path / "\x1b[31mred", WHOLE, result=RESULT | dict(method="a\x9b2J\n|"))
    text = curves.compare([folder], tmp_path / "out.png").splitlines()[2]
    assert text.startswith("| \ufffd[31mred |") and "| a\ufffd2J \\| |" in text and text.isprintable()


@pytest.mark.parametrize(
    "odd", [dict(execution_accuracy=float("nan")), dict(n=None), dict(train_examples_per_second=float("inf")), dict(n="many")]
)
def test_a_result_with_what_is_no_number(tmp_path, odd):
    text = curves.compare([run(tmp_path / "run", WHOLE, result=RESULT | odd)], tmp_path / "out.png")
    assert not {"nan", "inf", "many"} & set(re.findall(r"[a-z]+", text.splitlines()[2]))


def test_other_data_are_named_and_options_of_the_call_are_not():
    data = [dict(directory="sample", sha256="a" * 64), dict(directory="sample", sha256="b" * 64)]
    started = [dict(args=dict(out=str(i), report_to=str(i)), data=each) for i, each in enumerate(data)]
    assert curves.differing(started) == ["other data: sample (aaaaaaa), sample (bbbbbbb)"]
