"""Run untrusted SQL on SQLite databases, in worker processes, so that it can neither do harm nor hang the caller.

Covered, each by a test in `tests/test_execute.py`:
- writing: the connection is opened read-only, and an authorizer refuses everything but reading (no INSERT, CREATE, ATTACH,
  PRAGMA, VACUUM INTO, load_extension, transaction); the worker may not grow any file (RLIMIT_FSIZE 0), and SQLite keeps
  its temporary data in memory;
- time: a progress handler interrupts a statement at its limit; where a single step of SQLite takes so long that the handler
  is not called, the parent kills the worker 0.1 s after the limit. A worker whose parent is gone ends itself;
- size: limits on the statement, a single value, the rows and bytes of a result, SQLite's heap and the process (RLIMIT_AS);
- several statements in one string, NUL bytes, lone surrogates, text that is not UTF-8: an error result or replacement
  characters, never an exception in the caller;
- a worker that dies: only its own statement fails, and a new worker takes its place;
- a machine that was stopped meanwhile (Ctrl-Z, a suspended virtual machine): statements that failed then are run again;
- a database that is missing, locked or not SQLite: an error result. Reading changes neither the database's files nor its
  folder, whatever its mode and state (`read_database`).

Not covered: a defect of SQLite that lets a statement run code (the worker is a separate process, but not a sandbox: it has
the user's rights on files and network); a database file made to attack SQLite (https://www.sqlite.org/security.html);
RLIMIT_AS on systems that ignore it (macOS: SQLite's own heap limit still holds there).

Workers are started with `subprocess`, not by fork or `multiprocessing`, because the caller may hold CUDA, threads and an
unguarded main module. They run this very file, which therefore imports the standard library only.
"""

import errno
import functools
import gc
import hashlib
import json
import math
import os
import re
import select
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self, TypeVar

PARSE = "does not parse"
NO_TABLE = "no such table"
NO_COLUMN = "no such column"
WRONG_ROWS = "wrong rows"
WRONG_ORDER = "wrong order"
TIMED_OUT = "timed out"
TOO_LARGE = "too large"
GOLD_FAILS = "gold fails"
REFUSED = "refused"  # it parses, but does more than read, or is several statements
NO_DATABASE = "database unavailable"
CRASHED = "crashed"
TOO_LONG = "question too long"  # so the model was not asked
FAILS = "does not run"  # any other error of SQLite, such as a misused aggregate or an unknown function
ERROR_CLASSES = (
    *(PARSE, NO_TABLE, NO_COLUMN, FAILS, REFUSED, WRONG_ROWS, WRONG_ORDER),
    *(TIMED_OUT, TOO_LARGE, CRASHED, NO_DATABASE, GOLD_FAILS, TOO_LONG),
)

GRACE = 0.1  # seconds between a statement's limit and the parent's kill
SECONDS_PER_VALUE = 1e-5  # added to a comparison's time limit for each value of the gold's rows
MAX_SECONDS = 3600.0  # upper bound for a statement's limit
TICK = 0.1  # seconds after which the parent checks the clock at the latest
STALL = 1.0  # seconds of further delay that show that the machine, or the process group, was stopped
DIGESTED = 500  # rows of a result that its digest is of
REPEATS = 10  # times that a statement is run again after stalls, at most

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What one statement may use; no gold query of Spider comes near the defaults."""

    seconds: float = 5.0  # wall clock; official: 20 s, but the slowest right answer on Spider takes 0.2 s
    max_rows: int = 1_000_000
    max_value_bytes: int = 1 << 20  # of one string or blob, also of intermediate ones
    max_result_bytes: int = 256 << 20  # text and blobs of all rows
    max_memory_bytes: int = 1 << 30  # of a worker process; SQLite may use half
    max_statement_chars: int = 20_000


@dataclass
class Result:
    """What a statement returned: its first `rows`, their `count` in all and `columns`, or an `error` class and a message.

    `digest` is equal where the first DIGESTED rows are, in whatever order of rows and columns.
    """

    rows: list[tuple] | None
    count: int
    columns: list[str]
    error: str | None  # of ERROR_CLASSES
    message: str
    digest: str = ""


@dataclass(frozen=True)
class Comparison:
    """A prediction to compare with the gold on each of `databases`; the order of rows counts if `ordered`."""

    databases: tuple[Path, ...]
    gold: str
    predicted: str
    ordered: bool


@dataclass
class Verdict:
    """Whether the rows agree on every database; if not, the error class and a message that names the cause."""

    match: bool
    error: str | None
    message: str


def explained(error: str, message: str) -> str:
    """An error class and its message as one text; the message alone where it begins with the class."""
    return message if message.startswith(error) else f"{error}: {message}" if message else error


class Executor:
    """A pool of worker processes for untrusted statements, and a context manager that ends them.

    `workers`: number of processes, by default one per core and at most 8. The other arguments are the fields of `Limits`.
    Raises ValueError for fewer than one worker, and unless 0 < seconds <= MAX_SECONDS.
    Workers start when first needed. Calls from several threads wait for each other.
    """

    def __init__(self, workers: int | None = None, seconds: float = Limits.seconds, **limits: int) -> None:
        if workers is not None and workers < 1 or not 0 < seconds <= MAX_SECONDS:
            raise ValueError(f"an Executor needs at least one worker and a number of seconds up to {MAX_SECONDS:g}")
        self.limits = Limits(seconds=seconds, **limits)
        self.size = workers or min(os.cpu_count() or 1, 8)
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; a later call starts new ones."""
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def run(self, jobs: Iterable[tuple[str | Path, str]], progress: bool = False, keep: int | None = None) -> list[Result]:
        """Run each (database, statement) -> results in the order of the jobs, each with up to `keep` rows (None: all).

        No statement raises an exception.
        """
        place = functools.cache(readable)
        tasks = [{"databases": [place(database)], "sql": self._cut(sql), "keep": keep} for database, sql in jobs]
        results = []
        for reply in self._map(tasks, progress, "running SQL"):
            rows, count, columns, digest = reply["found"] or (None, 0, [], "")
            rows = None if rows is None else [_decode_row(row) for row in rows]
            results.append(Result(rows, count, columns, reply["error"], reply["message"], digest))
        return results

    def same_programs(self, jobs: Iterable[tuple[str | Path, str, str]], progress: bool = False) -> list[bool]:
        """Whether SQLite compiles both statements of each (database, statement, statement) to one program, or neither.

        Also False where a statement kills its worker or runs out of time.
        """
        place, places = functools.cache(readable), {}
        for index, (database, *pair) in enumerate(jobs):
            places.setdefault(place(database), []).append((index, [self._cut(sql) for sql in pair]))
        groups = [(path, some[i : i + 100]) for path, some in places.items() for i in range(0, len(some), 100)]
        same: dict[int, bool] = {}
        while groups:
            tasks = [{"databases": [path], "pairs": [pair for _, pair in group]} for path, group in groups]
            replies = self._map(tasks, progress, "comparing spellings")
            for (_, group), reply in zip(groups, replies):
                same |= zip((index for index, _ in group), reply["found"] or [False] * len(group))
            # one pair fails its whole group: run each pair by itself
            failed = [(path, group) for (path, group), reply in zip(groups, replies) if reply["error"] and len(group) > 1]
            groups = [(path, [one]) for path, group in failed for one in group]
        return [same[index] for index in range(len(same))]

    def compare(self, jobs: Iterable[Comparison], progress: bool = False) -> list[Verdict]:
        """Run gold and prediction of each job and compare their rows within the worker -> verdicts in the jobs' order.

        Equal jobs run once: Spider asks most questions in two wordings. Raises ValueError for a job without a database, for
        which any prediction would be right.
        """
        jobs = list(jobs)
        if not all(job.databases for job in jobs):
            raise ValueError("a comparison needs at least one database")
        tasks, place = {}, functools.cache(readable)
        for job in jobs:
            paths = [place(path) for path in job.databases]
            gold, predicted = self._cut(job.gold), self._cut(job.predicted)
            tasks[job] = {"databases": paths, "gold": gold, "sql": predicted, "ordered": job.ordered}
        replies = self._map(list(tasks.values()), progress, "comparing rows")
        verdicts = {
            job: Verdict(reply["error"] is None, reply["error"], reply["message"]) for job, reply in zip(tasks, replies)
        }
        return [verdicts[job] for job in jobs]

    def _cut(self, sql: str) -> str:
        """Cut an overlong statement to a length that a worker still refuses."""
        return sql[: self.limits.max_statement_chars + 1]

    def _map(self, tasks: list[dict], progress: bool, title: str) -> list[dict]:
        """Hand the tasks to idle workers and gather the replies; replace workers that die or overrun."""
        from data.common.errors import printable  # not at the top: a worker runs this file alone

        replies: list[dict | None] = [None] * len(tasks)
        with self._lock, _bar(len(tasks), title, progress) as bar:
            while len(self._workers) < min(self.size, len(tasks)):
                self._workers.append(_Worker(self.limits))
            waiting = iter(range(len(tasks)))
            busy: dict[int, int] = {}  # position of the worker -> index of its task
            self._looked = time.monotonic()
            try:
                while True:
                    for position in range(len(self._workers)):
                        if position not in busy and (index := next(waiting, None)) is not None:
                            self._send(position, tasks[index])
                            busy[position] = index
                    if not busy:
                        return replies
                    for position, reply in self._receive(list(busy)):
                        reply["message"] = printable(reply["message"])  # it may quote what a model wrote
                        replies[busy.pop(position)] = reply
                        if bar is not None:
                            bar.update()
            except BaseException:  # also KeyboardInterrupt: a worker with an unread reply must not serve the next call
                self.close()
                raise

    def _send(self, position: int, task: dict, repeats: int = REPEATS) -> None:
        """Give a worker its task; replace it first if it died while idle."""
        for attempt in (1, 2):
            try:
                self._workers[position].send(task, repeats)
                return
            except OSError as error:
                if attempt == 2:
                    raise RuntimeError(f"the worker for SQL does not start: {sys.executable}: {error}") from None
                self._replace(position)

    def _receive(self, busy: list[int]) -> Iterator[tuple[int, dict]]:
        """Wait until a worker answers, dies or overruns; yield (its position, the reply)."""
        poll = select.poll()  # select.select takes no file descriptor above 1023
        for position in busy:
            poll.register(self._workers[position].output, select.POLLIN)
        nearest = min(self._workers[position].deadline for position in busy)
        poll.poll(max(0.0, min(nearest - time.monotonic(), TICK)) * 1000 + 1)
        for position in busy:
            worker = self._workers[position]
            reply = worker.read()
            if not worker.alive and worker.stage == "start":  # it died before it began the statement
                if not worker.served:
                    status = worker.process.returncode
                    raise RuntimeError(f"the worker for SQL does not start: {sys.executable} ended with {status}")
                self._replace(position)
                self._send(position, worker.task, worker.repeats)
                continue
            if reply is None and worker.deadline <= time.monotonic():
                reply = worker.give_up(TIMED_OUT, f"stopped after {self.limits.seconds:g} s")
            self._look(busy)  # after reading: any stop up to here may be why a statement failed
            if reply is not None:
                if not worker.alive:
                    self._replace(position)
                if worker.stalled and worker.repeats and reply["error"] in (TIMED_OUT, CRASHED, GOLD_FAILS):
                    self._send(position, worker.task, worker.repeats - 1)
                    continue
                yield position, reply

    def _look(self, busy: list[int]) -> None:
        """Check the clock; if the machine was stopped since the last time, mark the running tasks as stalled."""
        now = time.monotonic()
        if now - self._looked > TICK + min(STALL, self.limits.seconds / 2):
            for position in busy:
                self._workers[position].stalled = True
        self._looked = now

    def _replace(self, position: int) -> None:
        self._workers[position].kill()
        self._workers[position] = _Worker(self.limits)


class _Worker:
    """The parent's side of one worker process: JSON lines out and in."""

    def __init__(self, limits: Limits) -> None:
        # -I -S: no site packages, no PYTHON* variables, no script folder: nothing that could import a model's library
        command = [sys.executable, "-I", "-S", os.path.abspath(__file__), json.dumps(asdict(limits))]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, cwd="/")
        self.output = self.process.stdout.fileno()
        os.set_blocking(self.output, False)
        self.limits = limits
        self.alive = True
        self.served = False
        self._buffer = bytearray()

    def send(self, task: dict, repeats: int) -> None:
        """Start a task, which may be run again `repeats` times. Raises OSError when the worker is gone."""
        self.stage = "start"
        self.task, self.repeats, self.stalled = task, repeats, False
        self.deadline = time.monotonic() + 60.0  # a fresh interpreter on a busy machine; the first stage sets the real one
        self.process.stdin.write(json.dumps(task).encode() + b"\n")
        self.process.stdin.flush()

    def read(self) -> dict | None:
        """Read what the worker has written -> a complete reply, an error reply if the worker is dead, else None."""
        while True:
            try:
                piece = os.read(self.output, 1 << 20)
            except BlockingIOError:
                return None
            if not piece:
                self.process.wait()
                return self.give_up(CRASHED, f"the worker ended with status {self.process.returncode}")
            searched = len(self._buffer)
            self._buffer += piece
            while (end := self._buffer.find(b"\n", searched)) >= 0:
                line = json.loads(self._buffer[:end])
                del self._buffer[: end + 1]
                searched = 0
                if isinstance(line, dict):
                    return line
                (self.stage, seconds), self.served = line, True  # a statement begins: its clock starts
                self.deadline = time.monotonic() + seconds + GRACE

    def give_up(self, error: str, message: str) -> dict:
        """Kill the worker, if it still runs, and return an error reply for its task."""
        self.kill()
        if self.stage == "gold":
            error, message = GOLD_FAILS, explained(error, message)
        return _reply(None, error, message)

    def kill(self) -> None:
        self.alive = False
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except OSError:  # closing flushes what a dead worker can no longer read
                pass


def _bar(total: int, title: str, wanted: bool) -> AbstractContextManager:
    """A progress bar where stderr is a terminal and tqdm is installed, else nothing."""
    if wanted and sys.stderr is not None and sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            return nullcontext()
        return tqdm(total=total, desc=title, leave=False)
    return nullcontext()


def _reply(found: object, error: str | None = None, message: str = "") -> dict:
    return {"found": found, "error": error, "message": message}


def _decode_row(row: list) -> tuple:
    """JSON has no bytes: a blob travels as a list that holds its hexadecimal digits."""
    return tuple(bytes.fromhex(value[0]) if isinstance(value, list) else value for value in row)


def _encode_row(row: tuple) -> list:
    return [[value.hex()] if isinstance(value, bytes) else value for value in row]


# how a database file is opened


SUFFIXES = ("", "-wal", "-journal")  # of a database file, its write-ahead log and its rollback journal
ATTEMPTS = 5  # at reading a file that another process is changing
# primary result codes: after a crash, or while a writer opens or closes the file; and for damaged content
UNOPENED = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
DAMAGED = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR}


def in_wal_mode(path: str | Path) -> bool:
    """Whether a database file is in WAL mode (https://www.sqlite.org/fileformat.html, section 1.3).

    Raises OSError where it cannot be read or is not a regular file, sqlite3.DatabaseError where it is not a database.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading a pipe or a device may never end
        raise OSError(errno.EINVAL, "not a regular file")
    with open(path, "rb") as file:
        header = file.read(20)
    if header[:16] != b"SQLite format 3\0":
        raise _database_error("file is not a database", sqlite3.SQLITE_NOTADB)
    return header[19:20] == b"\2"  # the read version, by which alone SQLite decides


def read_database(path: str | Path, read: Callable[[sqlite3.Connection], T], timeout: float = 1.0) -> T:
    """Return what `read` returns for a read-only connection to a database file. The file and its folder stay unchanged.

    A file in WAL mode without a log is opened as immutable, since SQLite would otherwise create a log and its index beside
    it; any other is opened under SQLite's locks (waiting up to `timeout` seconds), with a log's index read-only. If another
    process changes the file meanwhile, `read` may be called again. A schema is trusted with SQLite's own functions, as JSON's
    in generated columns and views: none acts, Python adds none, and extensions cannot be loaded.
    Raises OSError and sqlite3.Error, also for lack of memory. After a crash, `readable` gives the path to read.
    """
    real = os.path.realpath(path)  # SQLite, too, looks for a log beside the target of a symbolic link
    for attempt in range(ATTEMPTS):
        before = _stamps(real)
        immutable = in_wal_mode(real) and before[1] is None
        uri = Path(real).as_uri() + "?mode=ro" + ("&immutable=1" if immutable else "&readonly_shm=1")
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None)) as connection:
                connection.text_factory = lambda raw: raw.decode(errors="replace")
                found = read(connection)
        except MemoryError:
            raise _database_error("out of memory", sqlite3.SQLITE_NOMEM) from None
        except UnicodeDecodeError as error:  # SQLite's message names what is damaged, in the file's own bytes
            raise _database_error(f"a name is not UTF-8: {error}", sqlite3.SQLITE_CORRUPT) from None
        except sqlite3.Error as error:
            code = _primary_code(error)
            again = code in UNOPENED or code in DAMAGED and _stamps(real) != before
            if not again or attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.002 * 2**attempt)  # a writer creates and removes its files one by one
        else:
            if not immutable or _stamps(real) == before:
                return found
    raise OSError(errno.EBUSY, "the file changes while it is read")


def readable(path: str | Path) -> str:
    """The absolute path from which a database file can be read: its own, or that of a private copy.

    A copy is needed where SQLite has to write before it can read: a crash left a journal to roll back, or a log without its
    index. A changed file is copied again; copies are removed when the process ends.
    """
    real = os.path.realpath(path)
    stamps = _stamps(real)
    if (real, stamps) in _copies:
        return _copies[real, stamps]
    if any(stamps[1:]):
        try:
            read_database(real, lambda connection: connection.execute("PRAGMA schema_version").fetchone())
        except (OSError, sqlite3.Error) as error:
            if _primary_code(error) in {*UNOPENED, sqlite3.SQLITE_PROTOCOL}:  # PROTOCOL: a damaged index
                try:
                    return _copies.setdefault((real, stamps), _private_copy(real, stamps))
                except OSError:
                    pass  # reading the file itself will report what is wrong
    return os.path.abspath(path)


_copies: dict[tuple[str, tuple], str] = {}  # (database file, its stamps) -> private copy


def _private_copy(path: str, stamps: tuple) -> str:
    """Copy a database file to a folder of this process, and bring the copy to its last committed state."""
    copy = os.path.join(tempfile.mkdtemp(dir=_private_folder().name), os.path.basename(path))
    for suffix, stamp in zip(SUFFIXES, stamps):
        if stamp is not None:
            with open(path + suffix, "rb") as source, open(copy + suffix, "wb") as target:
                while piece := source.read(1 << 20):
                    target.write(piece)
    if _stamps(path) != stamps:
        raise OSError(errno.EBUSY, "the file changes while it is copied")
    with closing(sqlite3.connect(copy)) as connection:
        try:
            connection.execute("PRAGMA synchronous = OFF")  # a copy need not outlive a crash
            connection.execute("PRAGMA schema_version").fetchone()  # rolls back a journal; closing writes a log into the file
        except sqlite3.Error:
            pass  # damaged, which reading it will report
    return copy


@functools.cache
def _private_folder() -> tempfile.TemporaryDirectory:
    """A folder that is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="databases-", ignore_cleanup_errors=True)


def _stamps(path: str) -> tuple:
    """Inode, size and modification time of a database file and of each file beside it; None for one that is missing."""
    found = []
    for suffix in SUFFIXES:
        try:
            status = os.stat(path + suffix)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def quoted(name: str) -> str:
    """A name in double quotes, as SQL takes any name."""
    return '"' + name.replace('"', '""') + '"'


def _database_error(message: str, code: int) -> sqlite3.DatabaseError:
    """An exception like those that `sqlite3` raises, with a result code."""
    error = sqlite3.DatabaseError(message)
    error.sqlite_errorcode = code
    return error


def _primary_code(error: Exception) -> int | None:
    """The primary one of SQLite's result codes (https://www.sqlite.org/rescode.html); None for other exceptions."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


# what follows runs in the worker


class _Failure(Exception):
    """A statement failed; arguments: error class, message."""


READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
# primary result code -> error class
CODE_CLASSES = {
    sqlite3.SQLITE_INTERRUPT: TIMED_OUT,
    **dict.fromkeys((sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_FULL), TOO_LARGE),
    **dict.fromkeys((sqlite3.SQLITE_AUTH, sqlite3.SQLITE_READONLY), REFUSED),
    **dict.fromkeys((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL), NO_DATABASE),
    sqlite3.SQLITE_CANTOPEN: NO_DATABASE,
    **dict.fromkeys((sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR), NO_DATABASE),
}
# extended result codes: SQLite would have to write before it can read
CANNOT_RECOVER = {sqlite3.SQLITE_READONLY_ROLLBACK, sqlite3.SQLITE_READONLY_RECOVERY, sqlite3.SQLITE_READONLY_CANTINIT}
MESSAGE_CLASSES = (  # SQLite's generic error has no finer code
    ("no such table", NO_TABLE),
    ("no such column", NO_COLUMN),
    ("syntax error", PARSE),
    ("unrecognized token", PARSE),
    ("incomplete input", PARSE),
    ("parser stack overflow", TOO_LARGE),
    ("expression tree is too large", TOO_LARGE),
    ("too many", TOO_LARGE),
    ("like or glob pattern too complex", TOO_LARGE),
    ("one statement at a time", REFUSED),
    ("not authorized", REFUSED),
    ("may not be modified", REFUSED),
)


def classify(error: BaseException) -> str:
    """The error class of an exception that `sqlite3` raised."""
    if isinstance(error, MemoryError):
        return TOO_LARGE
    if isinstance(error, (ValueError, UnicodeError)):  # a NUL character or a lone surrogate in the statement
        return PARSE
    message = str(error).lower()
    if getattr(error, "sqlite_errorcode", None) in CANNOT_RECOVER:
        return NO_DATABASE
    if (code := _primary_code(error)) in CODE_CLASSES:
        return CODE_CLASSES[code]
    if "null character" in message:
        return PARSE
    return next((name for part, name in MESSAGE_CLASSES if part in message), FAILS)


def _restrict(connection: sqlite3.Connection, limits: Limits, end: float) -> None:
    """Set a statement's limits on a connection, and allow only reading; `end` is a time of `time.monotonic`."""
    connection.set_progress_handler(lambda: time.monotonic() >= end, 1000)  # 1000 steps take well under 1 ms
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA hard_heap_limit = {limits.max_memory_bytes // 2}")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limits.max_value_bytes)
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 4 * limits.max_statement_chars + 4)  # bytes of UTF-8
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000)
    # a virtual table prepares writing statements at its first use, even for reading: do that before the authorizer is set
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage = 0").fetchall():
        try:
            connection.execute(f"SELECT 1 FROM {quoted(name)} LIMIT 0")
        except sqlite3.Error:  # a missing module, or damage: statements that name this table will fail
            pass
    connection.set_authorizer(_authorize)


def _authorize(action: int, first: str | None, second: str | None, *where: str | None) -> int:
    """Allow only reading (https://www.sqlite.org/c3ref/c_alter_table.html lists the actions)."""
    allowed = action in READING
    if action == sqlite3.SQLITE_FUNCTION:
        allowed = (second or "").lower() not in ("load_extension", "fts3_tokenizer")
    elif action == sqlite3.SQLITE_UPDATE:  # how json_each and the like declare columns; SQLite refuses it to statements
        allowed = first == "sqlite_master"
    elif action == sqlite3.SQLITE_PRAGMA:  # full-text tables use these; without a value they change nothing
        allowed = first in ("data_version", "page_size") and second is None
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def fetch(path: str, sql: str, limits: Limits, keep: int | None = None) -> tuple[list[tuple], int, list[str]]:
    """Run one statement -> its rows, their number, its columns; rows beyond `keep` are only counted.

    Raises _Failure where the statement fails or exceeds a limit.
    """
    if len(sql) > limits.max_statement_chars:
        raise _Failure(TOO_LARGE, f"the statement is longer than {limits.max_statement_chars} characters")
    return _read(path, lambda connection, end: _rows(connection, sql, limits, end, keep), limits)


def _read(path: str, read: Callable[[sqlite3.Connection, float], T], limits: Limits) -> T:
    """Return what `read` returns for a restricted connection and the time at which it has to end. Raises _Failure."""
    end = time.monotonic() + limits.seconds

    def restricted(connection: sqlite3.Connection) -> T:
        _restrict(connection, limits, end)
        return read(connection, end)

    try:
        return read_database(path, restricted, min(1.0, limits.seconds / 2))
    except OSError as error:
        raise _Failure(NO_DATABASE, f"{path}: {error.strerror}") from None
    except (sqlite3.Error, sqlite3.Warning, MemoryError, ValueError) as error:
        kind = classify(error)
        message = f"stopped after {limits.seconds:g} s" if kind == TIMED_OUT else str(error)
        raise _Failure(kind, f"{path}: {message}" if kind == NO_DATABASE else message) from None


def _rows(
    connection: sqlite3.Connection, sql: str, limits: Limits, end: float, keep: int | None
) -> tuple[list[tuple], int, list[str]]:
    """What `fetch` returns, for an open connection."""
    rows, count, size = [], 0, 0
    cursor = connection.execute(sql)
    if cursor.description is None:
        empty = not re.sub(r"--[^\n]*|/\*.*?(?:\*/|$)|[\s;]", "", sql, flags=re.DOTALL)
        raise _Failure(PARSE if empty else REFUSED, "the statement is empty" if empty else "the statement is no query")
    columns = [column[0] for column in cursor.description]
    try:
        for row in cursor:
            count += 1
            if count > limits.max_rows:
                raise _Failure(TOO_LARGE, f"more than {limits.max_rows} rows")
            if keep is None or count <= keep:
                size += sum(len(value) for value in row if isinstance(value, (str, bytes)))
                if size > limits.max_result_bytes:
                    raise _Failure(TOO_LARGE, f"more than {limits.max_result_bytes} bytes of text")
                rows.append(row)
            if not count % 1000 and time.monotonic() >= end:
                raise _Failure(TIMED_OUT, f"stopped after {limits.seconds:g} s")
    except MemoryError:
        rows.clear()  # handling the error needs memory
        raise
    return rows, count, columns


def rows_match(gold: Sequence[tuple], predicted: Sequence[tuple], ordered: bool) -> bool:
    """Whether two results hold the same rows, equally often, for some order of the predicted columns.

    The rule is that of test-suite accuracy (Zhong et al., 2020, https://arxiv.org/abs/2010.02840, and its scorer): column
    names do not count, two empty results agree whatever their columns, and the order of rows counts where `ordered`.
    Numbers compare by value (1 = 1.0), text and blobs exactly.
    """
    if len(gold) != len(predicted):
        return False
    if not gold:
        return True
    if len(gold[0]) != len(predicted[0]):
        return False
    gold_columns, columns = list(zip(*gold)), list(zip(*predicted))
    if ordered:
        return _same(gold_columns, columns)
    return _same(gold, predicted) or _columns_match(gold_columns, columns)


def _same(some: Iterable, others: Iterable) -> bool:
    """Whether two collections are equal as multisets."""
    return dict.__eq__(Counter(some), Counter(others))  # Counter's own == takes five times as long


def _columns_match(gold: list[tuple], predicted: list[tuple]) -> bool:
    """Whether some order of the predicted columns gives the rows of the gold, in any order of the rows.

    Trying all orders would take n! steps. Instead, columns are coloured by the values in them, rows by their values with the
    colours of the columns, columns again by the colours of the rows; only columns of the same colour can match. Columns with
    a colour of their own are matched at once, the others by backtracking, one at a time, as long as the rows cut to the
    columns matched so far agree. Identical columns count as one. Colours are hashes: what differs in colour differs, and what
    shares a colour by chance is told apart by the cuts, which are exact.
    """
    gold_copies, copies = Counter(gold), Counter(predicted)
    gold, predicted = list(gold_copies), list(copies)
    if len(gold) != len(predicted):
        return False
    gold_rows, rows = ([0] * len(table[0]) for table in (gold, predicted))
    gold_colours, colours = ([times[column] for column in table] for table, times in ((gold, gold_copies), (predicted, copies)))
    for _ in range(2):
        gold_colours, colours = _mix(gold, gold_rows, gold_colours), _mix(predicted, rows, colours)
        gold_rows, rows = _mix(zip(*gold), gold_colours, gold_rows), _mix(zip(*predicted), colours, rows)
        if not _same(gold_colours, colours) or not _same(gold_rows, rows):
            return False
        if len(set(colours)) == len(colours):
            break
    frequency, place = Counter(colours), {colour: column for column, colour in enumerate(colours)}
    alone = [column for column, colour in enumerate(gold_colours) if frequency[colour] == 1]
    others = [column for column in range(len(gold)) if frequency[gold_colours[column]] > 1]
    others.sort(key=lambda column: frequency[gold_colours[column]])  # fewest choices first
    forced = [place[gold_colours[column]] for column in alone]
    gold_start, start = [gold[column] for column in alone], [predicted[column] for column in forced]
    if not others:
        return _same(zip(*gold_start), zip(*start))

    numbers: dict[object, int] = {}  # equal keys get equal numbers

    def cut(*columns: Sequence) -> list[int]:
        """A number for each row; rows that are equal in the columns have the same."""
        return [numbers.setdefault(key, len(numbers)) for key in zip(*columns)]

    def choices(depth: int, gold_cut: list[int], other: list[int], free: list[int]) -> Iterator[tuple]:
        """The matches for the gold column `others[depth]`; the cuts number rows by the columns matched so far."""
        column = others[depth]
        gold_cut = cut(gold_cut, gold[column])
        for choice in free:
            if colours[choice] == gold_colours[column]:
                longer = cut(other, predicted[choice])
                if _same(longer, gold_cut):
                    yield gold_cut, longer, [each for each in free if each != choice]

    gold_cut, other = cut(gold_rows, *gold_start), cut(rows, *start)
    if not _same(gold_cut, other):
        return False
    taken = set(forced)
    stack = [choices(0, gold_cut, other, [column for column in range(len(predicted)) if column not in taken])]
    while stack:  # a loop: a result may have more columns than Python allows nested calls
        step = next(stack[-1], None)
        if step is None:
            stack.pop()
        elif len(stack) == len(others):
            return True
        else:
            stack.append(choices(len(stack), *step))
    return False


def _mix(lines: Iterable[tuple], colours: list[int], own: list[int]) -> list[int]:
    """A new colour for each line, from its own colour and the multiset of its values with their colours."""
    return [hash((colour, sum(map(hash, zip(line, colours))))) for line, colour in zip(lines, own)]


def _compare(task: dict, limits: Limits, stage) -> None:
    """Compare gold and prediction on each database. Raises _Failure where they differ."""
    for path in task["databases"]:
        stage("gold")
        try:
            gold, _, _ = fetch(path, task["gold"], limits)
        except _Failure as failure:
            error, message = failure.args
            raise _Failure(error if error == NO_DATABASE else GOLD_FAILS, explained(error, message)) from None
        stage("predicted")
        predicted, count, _ = fetch(path, task["sql"], limits, keep=len(gold))
        stage("compare", SECONDS_PER_VALUE * len(gold) * len(gold[0]) if gold else 0.0)
        if count != len(gold):
            raise _Failure(WRONG_ROWS, f"{count} rows, the gold has {len(gold)}")
        if not rows_match(gold, predicted, task["ordered"]):
            if task["ordered"] and rows_match(gold, predicted, False):
                raise _Failure(WRONG_ORDER, "the rows are right, their order is not")
            raise _Failure(WRONG_ROWS, _difference(gold, predicted))


def _difference(gold: list[tuple], predicted: list[tuple]) -> str:
    """How two results with equally many rows differ, in words."""
    if len(gold[0]) != len(predicted[0]):
        return f"{len(predicted[0])} columns, the gold has {len(gold[0])}"
    return f"{len(gold)} rows as in the gold, but other values"


def _run(task: dict, limits: Limits, stage) -> tuple[list[list], int, list[str], str]:
    """The rows of one statement, as JSON has them, their number, its columns, and the digest of what it returned."""
    stage("predicted")
    keep = task["keep"]
    rows, count, columns = fetch(task["databases"][0], task["sql"], limits, None if keep is None else max(keep, DIGESTED))
    stage("reply")  # encoding does not count as the statement's time
    return [_encode_row(row) for row in rows[:keep]], count, columns, _digest(rows[:DIGESTED])


def _digest(rows: list[tuple]) -> str:
    def by_value(value: object) -> str:
        return repr(int(value) if isinstance(value, float) and value.is_integer() else value)  # 1.0 is 1, as in `rows_match`

    each = (repr(sorted(map(by_value, row))).encode(errors="surrogatepass") for row in rows)
    return hashlib.sha256(b"".join(sorted(hashlib.sha256(row).digest() for row in each))).hexdigest()


def _programs(task: dict, limits: Limits, stage) -> list[bool]:
    """Whether the two statements of each pair compile to one program."""
    stage("predicted")

    def program(connection: sqlite3.Connection, sql: str) -> list[tuple] | None:
        """The steps without comments, which hold names; None where the statement does not compile."""
        if len(sql) > limits.max_statement_chars:
            return None
        try:
            return [step[:7] for step in connection.execute(f"EXPLAIN {sql}")]
        except (sqlite3.Error, sqlite3.Warning, ValueError):
            return None

    def same(connection: sqlite3.Connection, end: float) -> list[bool]:
        found = []
        for pair in task["pairs"]:
            one, other = (program(connection, sql) for sql in pair)
            # a virtual table's address changes from statement to statement
            found.append(one == other or re.sub(r"vtab:\w+", "", str(one)) == re.sub(r"vtab:\w+", "", str(other)))
            if time.monotonic() >= end:
                raise _Failure(TIMED_OUT, f"stopped after {limits.seconds:g} s")
        return found

    return _read(task["databases"][0], same, limits)


def _main() -> None:
    """The worker: read a task per line from standard input, write stages and a reply as lines, until the input ends."""
    import resource

    limits = Limits(**json.loads(sys.argv[1]))
    for what, limit in (
        (resource.RLIMIT_AS, limits.max_memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(what, (limit, limit))
        except (ValueError, OSError):  # not supported here, or a lower limit is already in force
            pass
    gc.disable()  # rows hold no cycles, and searching millions of them takes seconds
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the default ends the process, whatever SQLite is doing

    def stage(name: str, more: float = 0.0) -> None:
        """Announce a stage and the seconds that it may take: the limit plus `more`."""
        seconds = limits.seconds + more
        signal.alarm(math.ceil(seconds) + 1)  # in case the parent is gone and cannot kill this process
        sys.stdout.write(json.dumps([name, seconds]) + "\n")
        sys.stdout.flush()

    for line in sys.stdin:
        task = json.loads(line)
        work = _compare if "gold" in task else _programs if "pairs" in task else _run
        try:
            text = json.dumps(_reply(work(task, limits, stage)))
        except _Failure as failure:
            text = json.dumps(_reply(None, *failure.args))
        except (MemoryError, RecursionError) as error:
            text = json.dumps(_reply(None, TOO_LARGE, f"memory limit of the worker ({type(error).__name__})"))
        signal.alarm(0)
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
