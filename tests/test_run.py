"""The run folder: nothing of an earlier run is lost, nothing is half written, and the figures add up."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from data.errors import UserError
from data.run import (
    RunFolder,
    base_of,
    check_options,
    checkpoint_of,
    read_object,
    recover,
    replace_folder,
    write_atomically,
)

OPTIONS = {"batch_size": 4, "eval_batch_size": 16, "seed": 0}
DATA = {"directory": "data/spider", "examples": {"train": 7, "dev": 2}, "sha256": "0"}
RESULT = """script, model, method, parameters, trainable_parameters, trainable_percent, trainable_percent_packed, gpus,
gpu_name, train_batch_size, eval_batch_size, updates, examples_seen, train_seconds, train_examples_per_second,
train_tokens_per_second, eval_seconds, eval_examples_per_second, peak_memory_gib, execution_accuracy, exact_match, n, data"""
STATE = dict(update=0, best=-1.0, train_seconds=0.0, train_tokens=0, examples_seen=0)
FIGURES = dict(execution_accuracy=0.5, exact_match=0.25, n=2, eval_seconds=4.0, eval_examples_per_second=0.5)
PARAMETERS = dict(parameters=200, trainable_parameters=50, trainable_percent=25.0, trainable_percent_packed=40.0)


def row(index: int, gold: str, predicted: str) -> dict:
    base = dict(index=index, db_id="pets", question="How many?", gold=gold, predicted=predicted)
    return base | dict(execution_match=False, exact_match=False, hardness="easy", error="wrong rows")


ROWS = [row(0, "SELECT 1", "SELECT 2"), row(1, "SELECT a,\n  b FROM c", "SELECT 'x\ny'\tFROM c")]


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    made = RunFolder(tmp_path / "runs" / "some", "some_script")
    made.start(OPTIONS, DATA, ["GPU"], resume=False)
    return made


def finish(folder: RunFolder, rows: list[dict] = ROWS, gpus: tuple = ("GPU", "GPU"), **state) -> dict:
    folder.finish(rows, "some/model", "QLoRA NF4", PARAMETERS, gpus, 3 * 2**30, STATE | state, FIGURES)
    return json.loads((folder.path / "result.json").read_text()) if folder.main else {}


def files(path: Path) -> dict[str, str]:
    return {str(file.relative_to(path)): file.read_text() for file in path.rglob("*") if file.is_file()}


def lines(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1]


# ------------------------------------------------------------------------------------------------------------- starting


def test_what_a_run_was_given_is_written_down(folder):
    record = json.loads((folder.path / "args.json").read_text())
    assert set(record) == {"script", "args", "argv", "started", "git", "python", "packages", "gpus", "data"}
    assert (record["script"], record["args"], record["gpus"], record["data"]) == ("some_script", OPTIONS, ["GPU"], DATA)
    assert set(record["git"]) == {"commit", "dirty"} and record["packages"]["torch"]
    assert files(folder.path).keys() == {"args.json"}


def test_an_earlier_run_moves_aside_whole(folder):
    folder.log({"event": "update"})
    (folder.path / "best").mkdir()
    (folder.path / "best" / "weights").write_text("1")
    for number in (1, 2, 3):
        before = files(folder.path)
        folder.start(OPTIONS, DATA, ["GPU"], resume=False)
        assert files(folder.path.with_name(f"some.{number}")) == before
        assert files(folder.path).keys() == {"args.json"}
        folder.log({"number": number})


def test_a_folder_that_holds_other_things_is_left_alone(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years")
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'home'} holds other files than a run's: name another")):
        RunFolder(tmp_path / "home", "some_script").start(OPTIONS, DATA, [], resume=False)
    assert files(tmp_path) == {"home/thesis.txt": "years"}


def test_an_empty_folder_is_used(tmp_path):
    RunFolder(tmp_path, "some_script").start(OPTIONS, DATA, [], resume=False)
    assert files(tmp_path).keys() == {"args.json"}


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_folder_that_cannot_be_made(tmp_path, path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made .*: name another folder with --out"):
        RunFolder(tmp_path / path, "some_script").start(OPTIONS, DATA, [], resume=False)


def test_a_resumed_run_keeps_its_folder_and_its_log(folder):
    folder.log({"update": 0})
    again = RunFolder(folder.path, "some_script")
    again.start(OPTIONS, DATA, ["GPU"], resume=True)
    again.log({"update": 1})
    assert [json.loads(line) for line in lines(folder.path / "log.jsonl")] == [{"update": 0}, {"update": 1}]
    assert [path.name for path in folder.path.parent.iterdir()] == ["some"]


def test_the_run_of_another_script_is_not_resumed(folder):
    before = files(folder.path)
    with pytest.raises(UserError, match="is a run of some_script, not of other_script: name another --out"):
        RunFolder(folder.path, "other_script").start(OPTIONS, DATA, [], resume=True)
    assert files(folder.path) == before


def test_what_is_no_run_is_not_resumed(tmp_path):
    with pytest.raises(UserError, match="args.json is missing: .*start without --resume"):
        RunFolder(tmp_path / "none", "some_script").start(OPTIONS, DATA, [], resume=True)
    assert not (tmp_path / "none").exists()


def test_other_ranks_write_nothing(tmp_path, capsys):
    other = RunFolder(tmp_path / "run", "some_script", main=False)
    for resume in (False, True):
        other.start(OPTIONS, DATA, ["GPU"], resume)
    other.log({"event": "update"})
    state = other.log_update(STATE, 1, 0.5, 1e-4, 2.0, 100, 8)
    other.log_evaluation(0, 1, ROWS, FIGURES)
    other.predictions(ROWS)
    finish(other)
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""
    assert state["update"] == 1  # but they count along


# -------------------------------------------------------------------------------------------------------------- logging


def test_an_update_is_logged_and_counted(folder):
    state = STATE | dict(best=0.25)
    for update, (seconds, tokens) in enumerate([(2.0, 100), (0.5, 60), (1.5, 40)]):
        assert state["update"] == update
        state = folder.log_update(state, 30, 0.5 - update / 10, 1e-4, seconds, tokens, 8)
    assert state == dict(update=3, best=0.25, train_seconds=4.0, train_tokens=200, examples_seen=24)
    assert STATE["update"] == 0  # the state given is left as it was
    records = [json.loads(line) for line in lines(folder.path / "log.jsonl")]
    assert records[1] == dict(event="update", update=1, loss=0.4, learning_rate=1e-4, seconds=0.5, tokens=60)
    assert [record["update"] for record in records] == [0, 1, 2]


def test_every_tenth_update_and_the_last_are_printed(folder, capsys):
    state = STATE
    for _ in range(24):
        state = folder.log_update(state, 24, 0.4312, 1.9e-4, 3.41, 4231, 8)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in printed] == ["00000/00024", "00010/00024", "00020/00024", "00023/00024"]
    assert "| loss 0.4312 | lr 1.9e-04 | 3.41 s | 1,241 tok/s | eta 0h01m" in printed[1]
    assert printed[-1].endswith("eta 0h00m")


def test_an_evaluation_is_logged_with_two_examples_printed(folder, capsys):
    folder.log_evaluation(5, 10, ROWS, FIGURES)
    assert [json.loads(line) for line in lines(folder.path / "log.jsonl")] == [dict(event="evaluation", update=5) | FIGURES]
    printed = capsys.readouterr().out
    assert printed.count("How many?") == printed.count("wrong, wrong rows") == 2
    assert "execution accuracy 50.0% | exact match 25.0% | n 2" in printed


def test_an_evaluation_of_one_example(folder):
    folder.log_evaluation(0, 1, ROWS[:1], FIGURES)


# ---------------------------------------------------------------------------------------------------------- predictions


def test_a_line_of_each_file_is_an_example_whatever_the_sql_holds(folder):
    breaks = "\n", "\r\n", "\r", "\t", "\n\n\t\r"
    rows = [row(i, f"SELECT a{b}FROM 'b{b}c' -- d{b}\n", f"SELECT{b}1 /*{b}*/ FROM x") for i, b in enumerate(breaks)]
    rows += [row(9, "SELECT 1", ""), row(10, "SELECT 2", "\n"), row(11, 'SELECT "é\u4e2d"', "SELECT '\\n'")]
    folder.predictions(rows)
    assert [json.loads(line) for line in lines(folder.path / "predictions.jsonl")] == rows
    # the official scorer opens with universal newlines, strips and splits at tabs
    for name, fields in (("predicted.sql", 1), ("gold.sql", 2)):
        with (folder.path / name).open(encoding="utf-8") as file:
            read = [line.strip("\n").split("\t") for line in file.readlines()]
        assert len(read) == len(rows) and {len(line) for line in read} == {fields}
    assert {line.split("\t")[1] for line in lines(folder.path / "gold.sql")} == {"pets"}


def test_sql_on_one_line_still_means_the_same(folder):
    folder.predictions([row(0, "SELECT a -- first\nFROM b\nWHERE c = 'two  spaces'", "SELECT 1\nFROM 'x  y'")])
    assert lines(folder.path / "gold.sql") == ["SELECT a FROM b WHERE c = 'two  spaces'\tpets"]
    assert lines(folder.path / "predicted.sql") == ["SELECT 1 FROM 'x  y'"]


# --------------------------------------------------------------------------------------------------------------- results


def test_the_result_has_exactly_its_keys(folder):
    assert set(finish(folder)) == {key.strip() for key in RESULT.split(",")}
    assert files(folder.path).keys() == {"args.json", "predictions.jsonl", "predicted.sql", "gold.sql", "result.json"}


def test_the_figures_of_a_result(folder):
    result = finish(folder, update=3, examples_seen=24, train_seconds=4.0, train_tokens=200)
    expected = dict(script="some_script", model="some/model", method="QLoRA NF4", gpus=2, gpu_name="GPU", updates=3, n=2)
    expected |= PARAMETERS | FIGURES | dict(train_batch_size=4, eval_batch_size=16, peak_memory_gib=3.0, data="data/spider")
    expected |= dict(train_seconds=4.0, train_examples_per_second=6.0, train_tokens_per_second=50.0, examples_seen=24)
    assert result == expected


def test_what_was_not_trained_has_no_speed(folder):
    result = finish(folder)
    assert result["train_examples_per_second"] is result["train_tokens_per_second"] is None
    assert result["updates"] == 0


def test_a_cpu_is_no_gpu(folder):
    assert {key: finish(folder, gpus=("cpu", "cpu"))[key] for key in ("gpus", "gpu_name")} == dict(gpus=0, gpu_name="cpu")


# -------------------------------------------------------------------------------------------------- files and checkpoints


def test_a_file_is_never_half_written(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a.json", "whole")

    def power_cut(*_):
        raise KeyboardInterrupt

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, power_cut)
            with pytest.raises(KeyboardInterrupt):
                write_atomically(tmp_path / "a.json", "new")
        assert (tmp_path / "a.json").read_text() == "whole"
    write_atomically(tmp_path / "a.json", "new")
    assert files(tmp_path) == {"a.json": "new"}


def checkpoint(path: Path, content: str) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    for name in ("checkpoint.json", "weights"):
        (path / name).write_text(content)
    return path


def whole(path: Path) -> str | None:
    """What a checkpoint holds; None where it is not there, or in pieces."""
    found = files(path) if path.is_dir() else {}
    contents = set(found.values())
    return contents.pop() if found.keys() == {"checkpoint.json", "weights"} and len(contents) == 1 else None


def cut_off(patch: pytest.MonkeyPatch, moment: int) -> None:
    """Raise KeyboardInterrupt before change number `moment` to the file system, renames and deletions of one file."""
    changes = 0

    def guarded(real):
        def change(*arguments, **options):
            nonlocal changes
            changes += 1
            if changes > moment:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        return change

    def rmtree(path, ignore_errors=False):
        for file in sorted(path.iterdir()) if path.exists() else []:
            file.unlink()
        if path.exists():
            path.rmdir()

    patch.setattr(shutil, "rmtree", rmtree)
    for name in ("rename", "replace", "unlink", "rmdir"):
        patch.setattr(Path, name, guarded(getattr(Path, name)))


MOMENTS = range(9)


def replace_until(monkeypatch, folder: Path, content: str, moment: int) -> bool:
    """Replace folder/best; whether that came to its end before `moment`."""
    aside = checkpoint(folder / "best.tmp", content)
    with monkeypatch.context() as patch:
        cut_off(patch, moment)
        try:
            replace_folder(aside, folder / "best")
        except KeyboardInterrupt:
            return False
    return True


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_crash_at_any_moment_leaves_a_whole_checkpoint(tmp_path, monkeypatch, moment):
    checkpoint(tmp_path / "best", "old")
    done = replace_until(monkeypatch, tmp_path, "new", moment)
    recover(tmp_path / "best")
    assert whole(tmp_path / "best") in (("new",) if done else ("old", "new"))


@pytest.mark.parametrize("first", MOMENTS)
@pytest.mark.parametrize("second", MOMENTS)
def test_two_crashes_without_a_recovery_between(tmp_path, monkeypatch, first, second):
    checkpoint(tmp_path / "best", "old")
    replace_until(monkeypatch, tmp_path, "new", first)
    replace_until(monkeypatch, tmp_path, "newer", second)
    recover(tmp_path / "best")
    assert whole(tmp_path / "best") in ("old", "new", "newer")


def test_the_moments_reach_the_end(tmp_path, monkeypatch):
    checkpoint(tmp_path / "best", "old")
    assert not replace_until(monkeypatch, tmp_path, "new", 1)
    assert replace_until(monkeypatch, tmp_path, "newer", MOMENTS[-1])
    assert whole(tmp_path / "best") == "newer" and [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_first_checkpoint_takes_its_place(tmp_path):
    replace_folder(checkpoint(tmp_path / "best.tmp", "first"), tmp_path / "best")
    assert whole(tmp_path / "best") == "first" and [path.name for path in tmp_path.iterdir()] == ["best"]


def test_nothing_to_recover_changes_nothing(tmp_path):
    checkpoint(tmp_path / "best", "new")
    checkpoint(tmp_path / "best.old", "old")
    recover(tmp_path / "best")
    recover(tmp_path / "last")
    assert whole(tmp_path / "best") == "new" and not (tmp_path / "last").exists()


# ------------------------------------------------------------------------------------------------- what --model can name

BASE = dict(model="hub/model", tiny=False, random_weights=False, seed=7)
ASKED = dict(tiny=False, random_weights=False, seed=0, epochs=3)


def saved(path: Path, record: object) -> str:
    path.mkdir(parents=True, exist_ok=True)
    (path / "checkpoint.json").write_text(record if isinstance(record, str) else json.dumps(record))
    return str(path)


def test_a_model_that_is_no_checkpoint_is_the_base_itself(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for model in ("hub/model", str(tmp_path), str(tmp_path / "none")):
        assert checkpoint_of(model) is None
        assert base_of(ASKED | dict(model=model), "a") == dict(model=model, tiny=False, random_weights=False, seed=0)


def test_a_run_folder_stands_for_its_best_checkpoint(tmp_path):
    for name in ("best", "last"):
        saved(tmp_path / name, dict(script="a", base=BASE))
    assert checkpoint_of(str(tmp_path)) == tmp_path / "best"
    assert checkpoint_of(str(tmp_path / "last")) == tmp_path / "last"
    assert base_of(ASKED | dict(model=str(tmp_path)), "a") == BASE


def test_a_best_checkpoint_that_was_being_replaced_is_found(tmp_path):
    saved(tmp_path / "best.old", dict(script="a", base=BASE))
    assert checkpoint_of(str(tmp_path)) == tmp_path / "best"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (dict(script="b", base=BASE), "was saved by b.py: name a checkpoint of a.py"),
        (dict(script="a"), "does not say what was trained: name another --model"),
        (dict(script="a", base=5), "does not say what was trained: name another --model"),
        (dict(script="a", base=[["model"]]), "does not say what was trained: name another --model"),
        (dict(script="a", base=dict(model="m")), "does not say what was trained: name another --model"),
        (dict(script="a", base=BASE | dict(tiny=True)), "was trained with --tiny: run it with --tiny here too"),
        (dict(script="a", base=BASE | dict(random_weights=True)), "was trained with --random_weights: run it with"),
        ("[]", "checkpoint.json does not hold a JSON object: name another --model"),
        ("", "checkpoint.json cannot be read .*: name another --model"),
        ("[" * 200_000, "checkpoint.json cannot be read .*: name another --model"),
        ('{"a": 1' + "0" * 10_000 + "}", "checkpoint.json cannot be read .*: name another --model"),
    ],
)
def test_a_checkpoint_that_does_not_fit(tmp_path, record, message):
    model = saved(tmp_path, record)
    with pytest.raises(UserError, match=message) as caught:
        base_of(ASKED | dict(model=model), "a")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_checkpoint_of_the_real_model_refuses_tiny(tmp_path):
    with pytest.raises(UserError, match="was trained without --tiny: run it without --tiny here too"):
        base_of(ASKED | dict(model=saved(tmp_path, dict(script="a", base=BASE)), tiny=True), "a")


def test_an_object_that_is_not_there_or_not_utf_8(tmp_path):
    with pytest.raises(UserError, match="a.json is missing: make it"):
        read_object(tmp_path / "a.json", "make it")
    (tmp_path / "a.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UserError, match="a.json cannot be read .*: make it"):
        read_object(tmp_path / "a.json", "make it")


# --------------------------------------------------------------------------------------------------------------- options

SOUND = dict(tiny=False, random_weights=False)
BOUNDS = {
    **dict.fromkeys(("epochs", "batch_size", "grad_accum", "eval_batch_size", "max_output_tokens", "num_beams"), 1),
    **dict.fromkeys(("lora_rank", "lora_alpha"), 1),
    **dict.fromkeys(("processes", "max_updates", "eval_every", "eval_examples", "save_every", "seed"), 0),
    "max_input_tokens": 64,
}


@pytest.mark.parametrize(("name", "least"), BOUNDS.items())
def test_an_option_has_a_least_value(name, least):
    check_options(SOUND | {name: least})
    for value in (least - 1, -(10**12)):
        with pytest.raises(UserError, match=f"^--{name} {value} is out of range: give {least} or more$"):
            check_options(SOUND | {name: value})


@pytest.mark.parametrize("name", ["learning_rate", "warmup", "lora_dropout"])
def test_a_share_lies_below_one(name):
    for value in (0.0, 1e-9, 0.999):
        check_options(SOUND | {name: value})
    for value in (-1e-9, 1.0, 5.0, float("nan"), float("inf"), float("-inf")):
        with pytest.raises(UserError, match=f"^--{name} {value} is out of range: give 0 or more and less than 1$"):
            check_options(SOUND | {name: value})


def test_two_sizes_exclude_each_other():
    check_options(SOUND | dict(tiny=True))
    check_options(SOUND | dict(random_weights=True))
    with pytest.raises(UserError, match="--tiny and --random_weights are two sizes of one model: give one of them"):
        check_options(dict(tiny=True, random_weights=True))
