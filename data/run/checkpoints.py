"""Checkpoints that survive crashes: written aside, sealed with the size of every file, and renamed into place."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.common.errors import NO_SPACE, UserError, causes
from data.common.files import read_object, sync_folder, write_atomically
from data.common.output import say

SEAL = "checkpoint.json"
FORM = ("values", "full_names", "share_schema", "plain_sql", "base_16bit")  # of prompts, of answers, and of the base's weights
KEPT = ("model", "tiny", "random_weights", "seed", *FORM)  # the options that define what is trained
# messages of torch and safetensors about a full disk
SAYS_NO_SPACE = re.compile(r"No space left|StorageFull|Disk quota|PytorchStreamWriter failed|unexpected pos \d+ vs \d+")


def seal(folder: Path, record: dict) -> None:
    """Flush all files of `folder` to disk, then write `checkpoint.json`: the record, and the files' sizes in bytes."""
    sizes = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SEAL):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            sizes[str(path.relative_to(folder))] = os.fstat(file.fileno()).st_size
    write_atomically(folder / SEAL, json.dumps(record | dict(files=sizes), indent=2) + "\n")


def keep_state(folder: Path, state: dict) -> None:
    """Give a sealed checkpoint a later state of its loop: what the evaluation of its weights brought."""
    record = read_object(folder / SEAL, "it has been saved just now: leave the run folder alone")
    write_atomically(folder / SEAL, json.dumps(record | dict(state=state), indent=2) + "\n")


def unseal(folder: Path, script: str, remedy: str) -> dict:
    """Check a checkpoint of `script` -> its record. Raises UserError, naming the file, if it is incomplete or another's."""
    record = read_object(folder / SEAL, remedy)
    if record.get("script") != script:
        raise UserError(f"{folder} was saved by {record.get('script')}.py: name a checkpoint of {script}.py")
    files, base, state = (record.get(name) for name in ("files", "base", "state"))
    if not all(isinstance(part, dict) for part in (files, base, state)) or not set(KEPT) <= set(base):
        raise UserError(f"{folder / SEAL} is of another version, or not whole: use the version that saved it, or train anew")
    for name, size in files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing: {remedy}")
        if path.stat().st_size != size:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes where {size:,} were saved: {remedy}")
    return record


@contextmanager
def room_for(aside: Path) -> Iterator[None]:
    """If the disk fills up while `aside` is written, remove `aside` and raise UserError."""
    try:
        yield
    except Exception as error:
        if not no_space(error):
            raise
        shutil.rmtree(aside, ignore_errors=True)
        where = aside.parent
        kept = "the last whole checkpoint is untouched, and --resume goes on from it"
        how = kept if (where / "last" / SEAL).exists() else "nothing has been saved yet, so start again"
        raise UserError(f"no space left on the disk of {where}: free some; {how}") from None


def no_space(error: BaseException | None) -> bool:
    """Whether an error, or one in its chain of causes, says that the disk is full."""
    return any(getattr(each, "errno", None) in NO_SPACE or SAYS_NO_SPACE.search(str(each)) for each in causes(error))


def replace_folder(aside: Path, final: Path) -> None:
    """Replace the folder `final` by `aside`; after a crash at any moment `recover` restores the old or the new one."""
    recover(final)  # if an earlier replacement was cut off, its .old may be all there is
    earlier = final.with_name(final.name + ".old")
    shutil.rmtree(earlier, ignore_errors=True)
    if final.exists():
        final.rename(earlier)
    aside.rename(final)
    sync_folder(final.parent)
    shutil.rmtree(earlier, ignore_errors=True)


def recover(final: Path) -> None:
    """Undo a `replace_folder` that was cut off between its two renames."""
    earlier = final.with_name(final.name + ".old")
    if earlier.exists() and not final.exists():
        earlier.rename(final)


def checkpoint_of(model: str) -> Path | None:
    """The checkpoint that --model names, the best one of a run folder; None where it names a model."""
    # best.old: a run that replaced it was cut off, or is at work, and whoever only reads must not rename under its hands
    places = (Path(model) / "best", Path(model) / "best.old", Path(model))
    return next((folder for folder in places if (folder / SEAL).is_file()), None)


def base_of(options: dict, script: str) -> dict:
    """The options KEPT: from `options`, or those with which the checkpoint that --model names was trained.

    Raises UserError for another script's checkpoint, for an incomplete one, and where --tiny or --random_weights differ from
    the checkpoint's.
    """
    checkpoint = checkpoint_of(options["model"])
    if checkpoint is None:
        return {name: options.get(name, False) for name in KEPT}
    base = unseal(checkpoint, script, "name another --model")["base"]
    for flag in ("tiny", "random_weights"):
        if base[flag] != options[flag]:
            how = "with" if base[flag] else "without"
            raise UserError(f"{checkpoint} was trained {how} --{flag}: run it {how} --{flag} here too")
    for flag in FORM:
        if flag in options and options[flag] != base[flag]:
            say(f"{checkpoint} was trained with{'' if base[flag] else 'out'} --{flag}, and stays so")
    return base


def record_of(folder: Path) -> dict:
    """The record sealed in a checkpoint from which a run resumes. Raises UserError where there is none."""
    recover(folder)
    return read_object(folder / SEAL, "there is nothing to resume: start without --resume")
