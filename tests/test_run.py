"""The run folder: nothing of an earlier run is lost, nothing is half written, and the figures add up."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import files

from data.common.errors import UserError
from data.common.output import SAID
from data.report import page
from data.run.checkpoints import KEPT, record_of, seal
from data.run.options import check_options, defaults, resolve_options
from data.run.run_folder import RunFolder
from data.with_torch import processes

ROOT = Path(__file__).resolve().parent.parent

OPTIONS = {"model": "some/model", "update_examples": 8, "batch_size": 4, "eval_batch_size": 16, "seed": 0}
DATA = {"directory": "data/spider", "examples": {"train": 7, "dev": 2}, "sha256": "0"}
RESULT = """script, model, method, parameters, trainable_parameters, trainable_percent, trainable_percent_packed, gpus,
gpu_name, train_batch_size, eval_batch_size, updates, examples_seen, train_seconds, train_examples_per_second,
train_tokens_per_second, utilisation, eval_seconds, eval_examples_per_second,
peak_memory_gib, execution_accuracy, exact_match, n, data"""
STATE = dict(update=0, evaluated=-1, best=-1.0, train_seconds=0.0, train_tokens=0, train_flops=0.0, examples_seen=0)
FIGURES = dict(execution_accuracy=0.5, exact_match=0.25, n=2, eval_seconds=4.0, eval_examples_per_second=0.5)
PARAMETERS = dict(parameters=200, trainable_parameters=50, trainable_percent=25.0, trainable_percent_packed=40.0)


def row(index: int, gold: str, predicted: str) -> dict:
    base = dict(index=index, db_id="pets", question="How many?", gold=gold, predicted=predicted)
    return base | dict(execution_match=False, exact_match=False, hardness="easy", error="wrong rows")


ROWS = [row(0, "SELECT 1", "SELECT 2"), row(1, "SELECT a,\n  b FROM c", "SELECT 'x\ny'\tFROM c")]


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    """The rows here are of no real database: the page has tests of its own."""
    monkeypatch.setattr(page, "write", lambda folder, benchmark, rows, result: None)


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return started(tmp_path / "runs" / "some")


def started(path: Path, options: dict = OPTIONS, gpus: tuple = ("GPU",), **how) -> RunFolder:
    """A run that has begun in its folder."""
    made = RunFolder(path, "some_script", **how)
    made.prepare(options, DATA, gpus, resume=False)
    made.start(dict(STATE), 5)
    return made


def finish(folder: RunFolder, rows: list[dict] = ROWS, gpus: tuple = ("GPU", "GPU"), **state) -> dict:
    folder.finish(rows, "some/model", "QLoRA NF4", PARAMETERS, gpus, 3 * 2**30, STATE | state, FIGURES, None)
    return json.loads((folder.path / "result.json").read_text()) if folder.main else {}


def record(loss: float = 0.5, seconds: float = 2.0) -> dict:
    return dict(loss=loss, learning_rate=1e-4, seconds=seconds, memory_gib=23.14)


def with_checkpoint(folder: RunFolder, update: int = 2, evaluated: int = 0, script: str = "some_script") -> RunFolder:
    """A run with a checkpoint after so many updates, and three updates and two evaluations in its log."""
    (folder.path / "last").mkdir(parents=True)
    (folder.path / "last" / "weights").write_text("12345")
    base = dict.fromkeys(KEPT, False) | dict(model="some/model", seed=0)
    seal(folder.path / "last", dict(script=script, base=base, state=STATE | dict(update=update, evaluated=evaluated)))
    for number in range(3):
        folder.log(dict(event="update", update=number))
    for number in (0, 2):
        folder.log(dict(event="evaluation", update=number))
    return folder


def lines(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1]


# ------------------------------------------------------------------------------------------------------------- starting


def test_what_a_run_was_given_is_written_down(folder):
    record = json.loads((folder.path / "args.json").read_text())
    assert set(record) == {"script", "args", "argv", "started", "resumed", "git", "python", "packages", "gpus", "data"}
    assert (record["script"], record["args"], record["gpus"], record["data"]) == ("some_script", OPTIONS, ["GPU"], DATA)
    assert set(record["git"]) == {"commit", "dirty"} and record["packages"]["torch"]
    assert files(folder.path).keys() == {"args.json", "log.jsonl"}


def test_an_earlier_run_moves_aside_whole(folder):
    folder.log({"event": "update", "update": 0})
    (folder.path / "best").mkdir()
    (folder.path / "best" / "weights").write_text("1")
    for number in (1, 2, 3):
        before = files(folder.path)
        folder = started(folder.path)
        assert files(folder.path.with_name(f"some.{number}")) == before
        assert files(folder.path).keys() == {"args.json", "log.jsonl"}
        folder.log({"number": number})


def test_an_earlier_run_stays_until_the_new_one_starts(folder, capsys):
    """Between the two a model is built, which may fail."""
    (folder.path / "best").mkdir()
    (folder.path / "best" / "weights").write_text("1")
    before = files(folder.path.parent)
    again = RunFolder(folder.path, "some_script")
    again.prepare(OPTIONS | dict(seed=1), DATA, ["GPU"], resume=False)
    again.health(0, "looked at", ["something is off"])
    assert files(folder.path.parent) == before
    again.start(dict(STATE), 5)
    assert json.loads((folder.path / "args.json").read_text())["args"]["seed"] == 1
    assert [json.loads(line)["event"] for line in lines(folder.path / "log.jsonl")] == ["health"]
    moved = {name.replace("some/", "some.1/"): text for name, text in before.items()}
    assert moved.items() <= files(folder.path.parent).items()


def test_an_earlier_run_that_moved_aside_can_go_on_beside_the_new_one(folder):
    with_checkpoint(folder)
    started(folder.path)
    check = f"RunFolder({f'{folder.path}.1'!r}, 'some_script').check({OPTIONS}, {DATA}, True)"
    subprocess.run([sys.executable, "-c", f"from data.run.run_folder import RunFolder; {check}"], cwd=ROOT, check=True)


def test_a_folder_that_holds_other_things_is_left_alone(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years")
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'home'} holds other files than a run's: name another")):
        RunFolder(tmp_path / "home", "some_script").prepare(OPTIONS, DATA, [], resume=False)
    assert files(tmp_path) == {"home/thesis.txt": "years"}


def test_an_empty_folder_is_used(tmp_path):
    started(tmp_path)
    assert files(tmp_path).keys() == {"args.json", "log.jsonl"}


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_folder_that_cannot_be_made(tmp_path, path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made .*: name another folder with --out"):
        RunFolder(tmp_path / path, "some_script").prepare(OPTIONS, DATA, [], resume=False)


def test_a_run_at_work_has_its_folder_to_itself(tmp_path):
    path = tmp_path / "run"
    code = f"""
import sys
from data.run.run_folder import RunFolder
RunFolder({str(path)!r}, "script").prepare({OPTIONS}, {DATA}, ["GPU"], False)
print("at work", flush=True)
sys.stdin.read()
"""
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "at work\n"
        before = files(tmp_path)
        for resume in (False, True):
            with pytest.raises(UserError, match="a run is at work in .*run: wait for it, or name another folder with --out"):
                RunFolder(path, "script").check(OPTIONS, DATA, resume)
        process.kill()
    assert files(tmp_path) == before
    RunFolder(path, "script").check(OPTIONS, DATA, False)


def test_an_earlier_run_behind_a_link_moves_aside_on_its_own_disk(tmp_path):
    (tmp_path / "disk" / "run").mkdir(parents=True)
    (tmp_path / "disk" / "run" / "args.json").write_text("{}")
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "run")
    started(tmp_path / "run")
    assert (tmp_path / "run").is_symlink() and (tmp_path / "disk" / "run.1" / "args.json").read_text() == "{}"
    assert json.loads((tmp_path / "disk" / "run" / "args.json").read_text())["script"] == "some_script"


def test_an_earlier_run_that_cannot_be_moved_is_named(tmp_path, monkeypatch):
    (tmp_path / "args.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match="cannot be moved aside .the working directory is in it.: name another folder with --out"
    ):
        RunFolder(".", "script").prepare(OPTIONS, DATA, ["GPU"], False)


def test_a_resumed_run_keeps_its_folder_and_the_log_up_to_its_checkpoint(folder):
    with_checkpoint(folder)
    first = json.loads((folder.path / "args.json").read_text())
    with (folder.path / "log.jsonl").open("a") as file:
        file.write('{"event": "upda')  # cut off
    (folder.path / "last.tmp").mkdir()
    again = RunFolder(folder.path, "some_script")
    again.prepare(OPTIONS, DATA, ["GPU"], resume=True)
    again.start(STATE | dict(update=2, evaluated=0), 5)
    again.log({"event": "update", "update": 2})
    log = [json.loads(line) for line in lines(folder.path / "log.jsonl")]
    assert [(entry["event"][0], entry["update"]) for entry in log] == [("u", 0), ("u", 1), ("e", 0), ("u", 2)]
    assert [path.name for path in folder.path.parent.iterdir()] == ["some"] and not (folder.path / "last.tmp").exists()
    second = json.loads((folder.path / "args.json").read_text())
    assert second["started"] == first["started"] and len(second["resumed"]) == 1


@pytest.mark.parametrize(
    ("options", "data", "gpus", "message"),
    [
        (OPTIONS | dict(seed=1), DATA, ["GPU"], "another run (seed 0 -> 1)"),
        (OPTIONS | dict(model="other"), DATA, ["GPU"], "another run (model some/model -> other)"),
        (OPTIONS, DATA | dict(sha256="1"), ["GPU"], "another run (data)"),
        (OPTIONS | dict(update_examples=16), DATA, ["GPU"], "another run (update_examples 8 -> 16)"),
        (OPTIONS | dict(update_examples=4), DATA, ["GPU", "GPU"], "another run (update_examples 8 -> 4)"),
        (OPTIONS | dict(vary_schema=0.4), DATA, ["GPU"], "another run (vary_schema None -> 0.4)"),
    ],
)
def test_options_that_would_silently_change_a_run_are_refused(folder, options, data, gpus, message):
    before = files(with_checkpoint(folder).path)
    again = RunFolder(folder.path, "some_script")
    with pytest.raises(UserError, match=re.escape(message)):
        again.prepare(options, data, gpus, resume=True)
    assert files(folder.path) == before
    again.prepare(options | dict(force=True), data, gpus, resume=True)


def test_warnings_stay_in_the_log_of_a_resumed_run(folder, capsys):
    folder.health(0, "looked at", ["something is off"])
    assert capsys.readouterr().out == "looked at\nWARNING: something is off\n"
    again = RunFolder(with_checkpoint(folder, update=0, evaluated=-1).path, "some_script")
    again.prepare(OPTIONS, DATA, ["GPU"], resume=True)
    again.start(STATE, 5)
    assert [json.loads(line)["warnings"] for line in lines(folder.path / "log.jsonl")] == [["something is off"]]


def test_options_that_differ_are_shown(folder, capsys):
    with_checkpoint(folder)
    RunFolder(folder.path, "some_script").prepare(OPTIONS | dict(epochs=9, resume=True), DATA, ["GPU"], resume=True)
    assert capsys.readouterr().out == "--epochs was None before, and is 9 from here on\n"


def test_as_many_examples_an_update_in_other_passes_on_other_gpus_are_the_same_run(folder, capsys):
    with_checkpoint(folder)
    other = OPTIONS | dict(batch_size=0, batch_tokens=4096)
    RunFolder(folder.path, "some_script").prepare(other, DATA, ["GPU", "GPU"], resume=True)
    said = [f"--{name} was {old} before, and is {new} from here on\n" for name, old, new in
            (("batch_size", 4, 0), ("batch_tokens", None, 4096))]  # fmt: skip
    assert capsys.readouterr().out == "".join(said)


def test_what_is_not_whole_is_not_resumed(folder):
    with pytest.raises(UserError, match="last/checkpoint.json is missing: there is nothing whole to resume"):
        RunFolder(folder.path, "some_script").prepare(OPTIONS, DATA, ["GPU"], resume=True)
    before = files(with_checkpoint(folder).path)
    changes = [(lambda file: file.write_text("1"), "last/weights has 1 bytes where 5"), (Path.unlink, "weights is missing")]
    for change, message in changes:
        change(folder.path / "last" / "weights")
        with pytest.raises(UserError, match=message):
            RunFolder(folder.path, "some_script").prepare(OPTIONS, DATA, ["GPU"], resume=True)
        assert files(folder.path)["args.json"] == before["args.json"]


def test_a_run_whose_record_lacks_its_options_is_not_resumed(folder):
    with_checkpoint(folder)
    (folder.path / "args.json").write_text(json.dumps(dict(script="some_script")))
    with pytest.raises(UserError, match="args.json is of another version, or not whole"):
        RunFolder(folder.path, "some_script").prepare(OPTIONS, DATA, ["GPU"], resume=True)


def test_the_run_of_another_script_is_not_resumed(folder):
    before = files(folder.path)
    with pytest.raises(UserError, match="is a run of some_script, not of other_script: name another --out"):
        RunFolder(folder.path, "other_script").prepare(OPTIONS, DATA, [], resume=True)
    assert files(folder.path) == before


def test_what_is_no_run_is_not_resumed(tmp_path):
    with pytest.raises(UserError, match="args.json is missing: .*start without --resume"):
        RunFolder(tmp_path / "none", "some_script").prepare(OPTIONS, DATA, [], resume=True)
    assert not (tmp_path / "none").exists()


def test_a_run_that_has_made_more_updates_than_it_shall_is_not_resumed(folder):
    """And its folder stays as it was, or the next attempt would take over the options of the one that was refused."""
    before = files(with_checkpoint(folder, update=4).path)
    again = RunFolder(folder.path, "some_script")
    again.prepare(OPTIONS | dict(learning_rate=0.5), DATA, ["GPU"], resume=True)
    again.health(0, "looked at", ["something is off"])
    with pytest.raises(
        UserError, match="the run has made 4 updates, and the options ask for 2: raise --epochs or --max_updates"
    ):
        again.start(STATE | dict(update=4), 2)
    assert files(folder.path) == before
    again.start(STATE | dict(update=4), 5)
    assert json.loads((folder.path / "args.json").read_text())["args"]["learning_rate"] == 0.5
    assert [json.loads(line)["event"] for line in lines(folder.path / "log.jsonl")][-1] == "health"


def test_other_ranks_write_nothing(tmp_path, capsys):
    other = RunFolder(tmp_path / "run", "some_script", main=False)
    for resume in (False, True):
        other.prepare(OPTIONS, DATA, ["GPU"], resume)
    other.log({"event": "update"})
    assert other.start(STATE, 5) == STATE
    state = other.log_update(STATE, 1, 8, (90, 10), (4, 5), **record())
    assert other.log_evaluation(dict(STATE), 1, ROWS, FIGURES)
    other.predictions(ROWS)
    finish(other)
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""
    assert state["update"] == 1  # but they count along


# -------------------------------------------------------------------------------------------------------------- logging


def test_an_update_is_logged_and_counted(folder):
    state = STATE | dict(best=0.25)
    for update, (seconds, tokens) in enumerate([(2.0, 100), (0.5, 60), (1.5, 40)]):
        assert state["update"] == update
        state = folder.log_update(state, 30, 8, (tokens - 10, 10), (4, 5), **record(0.5 - update / 10, seconds))
    counts = dict(update=3, train_seconds=4.0, train_tokens=200, train_flops=170 * 4 + 30 * 5, examples_seen=24)
    assert state == counts | dict(best=0.25, evaluated=-1)
    assert STATE["update"] == 0  # the state given is left as it was
    records = [json.loads(line) for line in lines(folder.path / "log.jsonl")]
    assert records[1] == dict(event="update", update=1) | record(0.4, 0.5) | dict(tokens=60)
    assert [record["update"] for record in records] == [0, 1, 2]


def test_every_tenth_update_and_the_last_are_printed(folder, capsys):
    state = STATE
    for _ in range(24):
        state = folder.log_update(state, 24, 8, (4200, 31), (4, 5), **record(0.4312, 3.41))
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in printed] == ["00000/00024", "00010/00024", "00020/00024", "00023/00024"]
    assert "| loss 0.4312 | lr 1.0e-04 | 3.41 s | 1,241 tok/s | 23.1 GiB | eta 0h01m" in printed[1]
    assert printed[-1].endswith("eta 0h00m")


def test_utilisation_is_printed_where_the_peak_of_the_gpus_is_known(tmp_path, capsys):
    folder = started(tmp_path / "run", gpus=("NVIDIA H100 80GB HBM3",) * 2)
    folder.log_update(STATE, 1, 8, (90, 10), (10**13, 8.94e12), **record(seconds=2.0))
    assert "| utilisation 25% |" in capsys.readouterr().out


def test_a_tracker_gets_the_numbers(tmp_path):
    seen = []
    folder = RunFolder(tmp_path / "run", "some_script", track=lambda values, step: seen.append((step, values)))
    folder.prepare(OPTIONS, DATA, ["GPU"], resume=False)
    folder.start(dict(STATE), 5)
    folder.log(dict(event="update", update=3, loss=0.5, by_hardness={}))
    assert seen == [(3, {"update/loss": 0.5})]


def test_an_evaluation_is_logged_with_two_examples_printed(folder, capsys):
    state = STATE | dict(update=5, best=0.4)
    assert folder.log_evaluation(state, 10, ROWS, FIGURES)
    assert state == STATE | dict(update=5, evaluated=5, best=0.5)
    assert [json.loads(line) for line in lines(folder.path / "log.jsonl")] == [dict(event="evaluation", update=5) | FIGURES]
    printed = capsys.readouterr().out
    assert printed.count("How many?") == printed.count("wrong, wrong rows") == 2
    assert "execution accuracy 50.0% | exact match 25.0% | n 2" in printed


def test_an_evaluation_is_the_best_where_none_was_as_good(folder):
    state = dict(STATE)
    shares = (0.25, 0.5, 0.5, 0.4)
    assert [folder.log_evaluation(state, 10, ROWS, FIGURES | dict(execution_accuracy=share)) for share in shares] == [
        True, True, False, False,
    ]  # fmt: skip
    assert state["best"] == 0.5


def test_what_an_evaluation_brings_is_noted_in_the_checkpoint_before_it(folder):
    (folder.path / "last").mkdir()
    seal(folder.path / "last", dict(script="a", state=STATE))
    folder.keep(STATE | dict(evaluated=5, best=0.5))
    assert record_of(folder.path / "last") == dict(script="a", state=STATE | dict(evaluated=5, best=0.5), files={})


def test_the_parameters_that_train_are_printed(folder, capsys):
    folder.counted(PARAMETERS)
    folder.counted(PARAMETERS | dict(trainable_percent_packed=25.0))
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"50 of 200 parameters train{share} | 1 x GPU" for share in (", 40.00 % as stored", "")]


def test_examples_that_are_printed_steer_no_terminal(folder, capsys):
    folder.log_evaluation(
        dict(STATE), 1, [row(0, "SELECT '\x1b[2J'", "SELECT `\x1b[31m\x07`") | dict(question="\x9b2J?")], FIGURES
    )
    assert capsys.readouterr().out.replace("\n", "").isprintable()


def test_an_evaluation_of_one_example(folder):
    folder.log_evaluation(dict(STATE), 1, ROWS[:1], FIGURES)
    assert (folder.path / "curves.png").read_bytes().startswith(b"\x89PNG")


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
    written = {"args.json", "log.jsonl", "predictions.jsonl", "predicted.sql", "gold.sql", "result.json"}
    assert files(folder.path).keys() == written


def test_a_page_that_fails_costs_no_result(folder, monkeypatch, capsys):
    monkeypatch.setattr(page, "write", lambda *arguments: 1 / 0)
    assert finish(folder)["n"] == 2
    assert "report.html was not made (ZeroDivisionError: " in capsys.readouterr().out


def test_the_figures_of_a_result(folder):
    result = finish(folder, update=3, examples_seen=24, train_seconds=4.0, train_tokens=200)
    expected = dict(script="some_script", model="some/model", method="QLoRA NF4", gpus=2, gpu_name="GPU", updates=3, n=2)
    expected |= PARAMETERS | FIGURES | dict(train_batch_size=4, eval_batch_size=16, peak_memory_gib=3.0, data="data/spider")
    expected |= dict(
        utilisation=None, train_seconds=4.0, train_examples_per_second=6.0, train_tokens_per_second=50.0, examples_seen=24
    )
    assert result == expected


def test_a_result_without_a_limit_of_examples_a_pass_has_those_of_an_update(tmp_path, capsys):
    folder = started(tmp_path / "run", OPTIONS | dict(batch_size=0))
    assert finish(folder)["train_batch_size"] == 8 and "| 8 / 16 |" in capsys.readouterr().out


@pytest.mark.parametrize(("flag", "model"), [("tiny", "some/model (tiny)"), ("random_weights", "some/model (random weights)")])
def test_a_result_says_that_a_model_is_not_the_real_one(tmp_path, flag, model):
    folder = started(tmp_path / "run", OPTIONS | {flag: True})
    assert finish(folder)["model"] == model


def test_what_was_not_trained_has_no_speed(folder):
    result = finish(folder)
    assert result["train_examples_per_second"] is result["train_tokens_per_second"] is None
    assert result["updates"] == 0


def test_a_cpu_is_no_gpu(folder):
    assert {key: finish(folder, gpus=("cpu", "cpu"))[key] for key in ("gpus", "gpu_name")} == dict(gpus=0, gpu_name="cpu")


# --------------------------------------------------------------------------------------------------------------- options

SOUND = dict(tiny=False, random_weights=False)
BOUNDS = {
    **dict.fromkeys(("epochs", "update_examples", "eval_batch_size", "max_output_tokens", "num_beams"), 1),
    **dict.fromkeys(("lora_rank", "lora_alpha"), 1),
    **dict.fromkeys(("processes", "batch_size", "batch_tokens", "max_updates", "eval_every", "eval_examples", "seed"), 0),
    "save_every": -1,
    "max_input_tokens": 64,
}


@pytest.mark.parametrize(("name", "least"), BOUNDS.items())
def test_an_option_has_a_least_value(name, least):
    check_options(SOUND | {name: least})
    for value in (least - 1, -(10**12)):
        with pytest.raises(UserError, match=f"^--{name} {value} is out of range: give {least} or more$"):
            check_options(SOUND | {name: value})


def test_a_seed_has_a_greatest_value():
    check_options(SOUND | {"seed": 2**32 - 1})
    with pytest.raises(UserError, match="^--seed 4294967296 is out of range"):
        check_options(SOUND | {"seed": 2**32})


def test_what_was_learned_is_not_the_test_split():
    with pytest.raises(UserError, match="^--overfit answers what it learned"):
        check_options(SOUND | {"eval_only": True, "overfit": 4, "split": "test"})


@pytest.mark.parametrize("name", ["learning_rate", "warmup", "lora_dropout", "vary_schema"])
def test_a_share_lies_below_one(name):
    for value in (0.0, 1e-9, 0.999):
        check_options(SOUND | {name: value})
    for value in (-1e-9, 1.0, 5.0, float("nan"), float("inf"), float("-inf")):
        with pytest.raises(UserError, match=f"^--{name} {value} is out of range: give 0 or more and less than 1$"):
            check_options(SOUND | {name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(ask="How many?", db=""), "--ask needs a database: name a SQLite file with --db FILE"),
        (dict(ask="  ", db="a.sqlite"), "the question of --ask is empty"),
        (dict(ask="many.csvs", db=""), "--ask needs a database"),
        (dict(answers="a.jsonl"), "--answers is where those to a file of questions go: name one with --ask FILE"),
        (dict(answers="a.jsonl", ask="How many?", db="a.sqlite"), "--answers is where those to a file of questions go"),
        *((dict(seconds=seconds), "--seconds .* is out of range") for seconds in (0.0, -1.0, math.nan, math.inf, 1e10)),
        (dict(split="test", eval_only=False), "--split test is to score a model that is finished: give --eval_only, too"),
        (dict(report_to="no_such_tracker"), "--report_to no_such_tracker: it is not installed: pip install no_such_tracker"),
    ],
)
def test_options_that_lack_something(options, message):
    with pytest.raises(UserError, match=message):
        check_options(SOUND | options)


def test_two_sizes_exclude_each_other():
    check_options(SOUND | dict(tiny=True))
    check_options(SOUND | dict(random_weights=True))
    with pytest.raises(UserError, match="--tiny and --random_weights are two sizes of one model: give one of them"):
        check_options(dict(tiny=True, random_weights=True))


@dataclass
class Args:
    """As a script's, few of them."""

    model: str = "some/model"
    tiny: bool = False
    random_weights: bool = False
    published: bool = False
    values: bool = True
    vary_schema: float = 0.4
    update_examples: int = 128
    overfit: int = 0
    max_updates: int = 0
    eval_every: int = 500
    save_every: int = 500
    eval_only: bool = False
    learning_rate: float = 3e-4
    ask: str | None = None
    db: str = ""
    out: str = "runs/some_script"


TINY = dict(update_examples=16, eval_every=1000)
PUBLISHED = dict(values=False, vary_schema=0.0, update_examples=36)


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        *((word, "--update_examples gives an update's size") for word in ("--grad_accum", "--grad-accum", "--grad_accum=2")),
        *((word, "answers are replayed where there is a GPU") for word in ("--cuda_graphs", "--no-cuda_graphs")),
        ("--no-compile", "--compile off"),
        ("--no-gradient_checkpointing", "--gradient_checkpointing off"),
        ("--relative_to", "python3 -m data.report RUN RUN compares runs"),
    ],
)
def test_an_option_that_is_gone_names_what_replaces_it(word, instead):
    with pytest.raises(UserError, match=f"^{word.split('=')[0]} is gone: {instead}"):
        defaults(["script.py", "--tiny", word, "2"], TINY, PUBLISHED)


def test_what_is_asked_about_options_is_no_option():
    assert defaults(["script.py", "--ask", "grad_accum", "cuda_graphs"], TINY, PUBLISHED) == {}


@pytest.mark.parametrize(
    ("words", "expected"),
    [([], {}), (["--tiny"], TINY), (["--published"], PUBLISHED), (["--tiny", "--published"], TINY | PUBLISHED)],
)
def test_the_defaults_that_a_command_line_changes(words, expected):
    assert defaults(["script.py", *words], TINY, PUBLISHED) == expected


@pytest.mark.parametrize("script", ["T5_3B", "flan_t5_base", "gpt_neox_20b", "llama_65b"])
def test_options_are_read_once(script, tmp_path):
    """What they say of themselves would else stand there twice."""
    words = [sys.executable, f"{script}.py", "--published", "--data", str(tmp_path / "nowhere")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout.count("the published recipe: ") == 1, done.stderr


DIFFERS = (
    "the published recipe: values False (default: True), vary_schema 0.0 (default: 0.4), update_examples 36 (default: 128)\n"
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, DIFFERS),
        (dict(values=True), DIFFERS + "changed by the command line: values True\n"),
        (
            dict(update_examples=8, vary_schema=0.1, out="x"),
            DIFFERS + "changed by the command line: vary_schema 0.1, update_examples 8\n",
        ),
    ],
)
def test_the_published_recipe_says_how_it_differs_and_what_of_it_is_changed(monkeypatch, capsys, change, said):
    monkeypatch.delenv("RANK", raising=False)
    args = Args(**(dict(published=True) | PUBLISHED | change))
    assert resolve_options(replace(args), Args, PUBLISHED) == args and capsys.readouterr().out == said
    resolve_options(replace(args, published=False), Args, PUBLISHED)
    assert capsys.readouterr().out == ""
    for name, value in (("RANK", "1"), (SAID, "yes")):  # once, not once a rank, and a launcher's first rank is silent, too
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            resolve_options(args, Args, PUBLISHED)
            assert capsys.readouterr().out == ""


def test_a_launcher_tells_its_ranks_that_it_has_said_what_comes_first(monkeypatch):
    ranks = []
    monkeypatch.setenv(SAID, "")  # restored after the test
    monkeypatch.delenv(SAID)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("torch.distributed.run.main", lambda words: ranks.append(SAID in os.environ))
    monkeypatch.setattr("data.with_torch.processes.for_launcher", lambda: None)
    with pytest.raises(SystemExit):
        processes.launch(2)
    assert ranks == [True]


@pytest.mark.parametrize("how", [{}, dict(tiny=True), dict(random_weights=True)])
def test_a_question_goes_to_the_run_in_out(tmp_path, how):
    args = Args(ask="How many?", db="shop.sqlite", out=str(tmp_path), **how)
    if how:  # that random weights know no answers is said later
        assert resolve_options(replace(args), Args, PUBLISHED).model == Args.model
    else:
        with pytest.raises(UserError, match="has no best checkpoint: name another run, a checkpoint or a model with --model"):
            resolve_options(replace(args), Args, PUBLISHED)
    (tmp_path / "best").mkdir()
    seal(tmp_path / "best", dict(script="script"))
    assert resolve_options(replace(args), Args, PUBLISHED).model == str(tmp_path)


def test_a_rate_of_0_is_refused_where_it_finds_none():
    with pytest.raises(UserError, match="--learning_rate 0 trains nothing: give more, or leave it out"):
        resolve_options(Args(learning_rate=0.0), Args, PUBLISHED)


@pytest.mark.parametrize("inside", ["", "best"])
def test_a_run_does_not_take_the_place_of_the_model_that_it_starts_from(tmp_path, inside):
    """It would be moved aside before it is loaded, and a fresh one trained."""
    (tmp_path / "best").mkdir()
    (tmp_path / "args.json").write_text("{}")
    options = OPTIONS | {"model": str(tmp_path / inside)}
    with pytest.raises(UserError, match="--model .* is in the folder that this run would take"):
        RunFolder(tmp_path, "script").check(options, {}, resume=False)
    RunFolder(tmp_path / "other", "script").check(options, {}, resume=False)
