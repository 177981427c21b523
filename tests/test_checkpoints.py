"""Checkpoints: whole after a crash at any moment, known for broken ones, and small words for a disk that is full."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import files

from data.common.errors import UserError
from data.common.files import read_object, write_atomically
from data.run.checkpoints import base_of, checkpoint_of, no_space, recover, replace_folder, room_for, seal, unseal

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

BASE = dict(model="hub/model", tiny=False, random_weights=False, values=False, full_names=False, share_schema=False, seed=7)
BASE |= dict(plain_sql=False, base_16bit=False)
ASKED = dict(tiny=False, random_weights=False, values=False, seed=0, epochs=3)


def saved(path: Path, record: object) -> str:
    path.mkdir(parents=True, exist_ok=True)
    record = dict(files={}, state={}) | record if isinstance(record, dict) else record
    (path / "checkpoint.json").write_text(record if isinstance(record, str) else json.dumps(record))
    return str(path)


def test_a_model_that_is_no_checkpoint_is_the_base_itself(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for model in ("hub/model", str(tmp_path), str(tmp_path / "none")):
        assert checkpoint_of(model) is None
        expected = dict.fromkeys(BASE, False) | dict(model=model, seed=0)
        assert base_of(ASKED | dict(model=model), "a") == expected


def test_a_run_folder_stands_for_its_best_checkpoint(tmp_path):
    for name in ("best", "last"):
        saved(tmp_path / name, dict(script="a", base=BASE))
    assert checkpoint_of(str(tmp_path)) == tmp_path / "best"
    assert checkpoint_of(str(tmp_path / "last")) == tmp_path / "last"
    assert base_of(ASKED | dict(model=str(tmp_path)), "a") == BASE


def test_a_best_checkpoint_that_was_being_replaced_is_found(tmp_path):
    """A run at work may be between its two renames: what reads its folder changes nothing there."""
    saved(tmp_path / "best.old", dict(script="a", base=BASE))
    assert checkpoint_of(str(tmp_path)) == tmp_path / "best.old"
    replace_folder(checkpoint(tmp_path / "best.tmp", "new"), tmp_path / "best")
    assert checkpoint_of(str(tmp_path)) == tmp_path / "best"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (dict(script="b", base=BASE), "was saved by b.py: name a checkpoint of a.py"),
        (dict(script="a"), "checkpoint.json is of another version, or not whole"),
        (dict(script="a", base=5), "checkpoint.json is of another version, or not whole"),
        (dict(script="a", base=[["model"]]), "checkpoint.json is of another version, or not whole"),
        (dict(script="a", base=dict(model="m")), "checkpoint.json is of another version, or not whole"),
        *((dict(script="a", base={key: BASE[key] for key in BASE if key != name}), "another version") for name in BASE),
        (dict(script="a", base=BASE, files=None), "checkpoint.json is of another version, or not whole"),
        (dict(script="a", base=BASE, files={"weights": 5}), "weights is missing: name another --model"),
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


@pytest.mark.parametrize("flag", ["values", "full_names", "share_schema", "plain_sql", "base_16bit"])
def test_a_checkpoint_says_how_its_prompts_and_answers_were_made(tmp_path, flag, monkeypatch, capsys):
    """It wins over the options, which have defaults of their own, and says so."""
    monkeypatch.delenv("RANK", raising=False)
    for there in (True, False):
        model = saved(tmp_path / "run", dict(script="a", base=BASE | {flag: there}))
        for asked in (True, False):
            assert base_of(ASKED | {"model": model, flag: asked}, "a") == BASE | {flag: there}
            said = f"{tmp_path / 'run'} was trained with{'' if there else 'out'} --{flag}, and stays so\n"
            assert capsys.readouterr().out == (said if asked != there else "")
        lacking = {name: value for name, value in ASKED.items() if name != flag}
        assert base_of(lacking | dict(model=model), "a")[flag] == there and capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "1")
    assert not base_of(ASKED | {"model": model, flag: True}, "a")[flag] and capsys.readouterr().out == ""


def test_a_checkpoint_of_the_real_model_refuses_tiny(tmp_path):
    with pytest.raises(UserError, match="was trained without --tiny: run it without --tiny here too"):
        base_of(ASKED | dict(model=saved(tmp_path, dict(script="a", base=BASE)), tiny=True), "a")


def test_an_object_that_is_not_there_or_not_utf_8(tmp_path):
    with pytest.raises(UserError, match="a.json is missing: make it"):
        read_object(tmp_path / "a.json", "make it")
    (tmp_path / "a.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UserError, match="a.json cannot be read .*: make it"):
        read_object(tmp_path / "a.json", "make it")


# ------------------------------------------------------------------------------------------- sealed, and found broken


def test_a_sealed_folder_is_whole_until_a_file_changes_its_size(tmp_path):
    (tmp_path / "resume").mkdir()
    (tmp_path / "resume" / "optimizer.bin").write_bytes(bytes(100))
    seal(tmp_path, dict(script="a", base=BASE, state=dict(update=3)))
    assert unseal(tmp_path, "a", "look")["state"] == dict(update=3)
    (tmp_path / "resume" / "optimizer.bin").write_bytes(bytes(99))
    with pytest.raises(UserError, match="resume/optimizer.bin has 99 bytes where 100 were saved: look"):
        unseal(tmp_path, "a", "look")
    (tmp_path / "resume" / "optimizer.bin").unlink()
    with pytest.raises(UserError, match="resume/optimizer.bin is missing: name another --model"):
        base_of(ASKED | dict(model=str(tmp_path)), "a")


def test_a_disk_that_is_full_is_known_whoever_says_it():
    by_torch = RuntimeError("[enforce fail at inline_container.cc:680] . unexpected pos 64 vs 0")
    by_torch.__context__ = OSError(errno.ENOSPC, "No space left on device")
    by_safetensors = Exception('Error while serializing: I/O error: Os { code: 28, kind: StorageFull, message: "..." }')
    for error in (OSError(errno.ENOSPC, "full"), OSError(errno.EDQUOT, "quota"), by_torch, by_safetensors):
        assert no_space(error)
    for error in (None, OSError(errno.EACCES, "no"), RuntimeError("CUDA out of memory")):
        assert not no_space(error)


@pytest.mark.parametrize(("saved", "how"), [(False, "start again"), (True, "the last whole .* --resume goes on from it")])
def test_what_was_written_to_a_full_disk_is_freed(tmp_path, saved, how):
    aside = checkpoint(tmp_path / "last.tmp", "new")
    if saved:
        checkpoint(tmp_path / "last", "old")
    with pytest.raises(UserError, match=f"no space left on the disk of {tmp_path}: .*{how}"), room_for(aside):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not aside.exists()


def test_another_error_stays_what_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="out of memory"), room_for(checkpoint(tmp_path / "last.tmp", "new")):
        raise RuntimeError("CUDA out of memory")
    assert (tmp_path / "last.tmp").exists()
