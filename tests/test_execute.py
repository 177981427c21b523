"""Untrusted SQL cannot write, hang, or bring the caller down."""

import hashlib
import itertools
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from conftest import wait_for

from data.benchmark.spider import schema_of_database
from data.benchmark.values import Values
from data.sqlite import execute
from data.sqlite.execute import Comparison, Executor, rows_match

ROOT = Path(__file__).resolve().parents[1]
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
# one step of SQLite that takes minutes, in which no progress handler is asked
ONE_LONG_STEP = "SELECT instr(printf('%.*c', 1000000, 'a'), printf('%.*c', 500000, 'a') || 'b')"


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pets") / "pets.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(
        """
        CREATE TABLE pet (id INTEGER PRIMARY KEY, name TEXT, weight REAL);
        INSERT INTO pet VALUES (1, 'Rex', 12.5), (2, 'Tom', 4), (3, 'Ada', NULL), (4, CAST(x'ff41' AS TEXT), 1);
        """
    )
    connection.close()
    return path


@pytest.fixture(scope="module")
def executor():
    with Executor(workers=2, seconds=1.0) as pool:
        yield pool


def test_schemas_may_use_the_functions_of_json(tmp_path, executor):
    path = tmp_path / "events.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            """
            CREATE TABLE event (id INTEGER, body TEXT, kind TEXT AS (json_extract(body, '$.kind')) STORED);
            CREATE INDEX by_kind ON event (json_extract(body, '$.kind'));
            CREATE VIEW kinds AS SELECT json_extract(body, '$.kind') AS name FROM event;
            INSERT INTO event (id, body) VALUES (1, '{"kind": "start"}');
            """
        )
    schema = schema_of_database(path)
    assert schema.tables == ("event", "kinds") and "kind" in [name for _, name in schema.columns]
    results = executor.run([(path, "SELECT kind FROM event"), (path, "SELECT name FROM kinds")], keep=2)
    assert [result.rows for result in results] == [[("start",)], [("start",)]]


@pytest.fixture(scope="module")
def virtual(tmp_path_factory) -> Path:
    """A database with virtual tables, one of them of a module that is nowhere."""
    path = tmp_path_factory.mktemp("virtual") / "virtual.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            """
            CREATE VIRTUAL TABLE note USING fts5(text); INSERT INTO note VALUES ('green tea'), ('black tea'), ('milk');
            CREATE VIRTUAL TABLE old USING fts4(text); INSERT INTO old VALUES ('green tea'), ('milk');
            CREATE VIRTUAL TABLE area USING rtree(id, low, high); INSERT INTO area VALUES (1, 0, 5), (2, 7, 9);
            CREATE TABLE shop (list TEXT); INSERT INTO shop VALUES ('["tea", "milk"]');
            CREATE VIEW bought AS SELECT value FROM shop, json_each(shop.list);
            CREATE VIRTUAL TABLE word USING fts5vocab(note, 'row');
            PRAGMA writable_schema = ON;
            INSERT INTO sqlite_master VALUES ('table', 'place', 'place', 0, 'CREATE VIRTUAL TABLE place USING VirtualPlace()');
            """
        )
    return path


def contents(folder: Path) -> dict[str, str]:
    """A hash of each file below a folder."""
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def run_one(executor: Executor, database: Path, sql: str) -> execute.Result:
    return executor.run([(database, sql)])[0]


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# what is returned


def test_results_come_in_the_order_of_the_jobs(executor, database):
    results = executor.run([(database, f"SELECT {number}") for number in range(50)])
    assert [result.rows for result in results] == [[(number,)] for number in range(50)]


def test_values_keep_their_types(executor, database):
    result = run_one(executor, database, "SELECT 1, 1.5, 1e999, 'a', NULL, x'00ff', 9223372036854775807 AS big")
    assert result.rows == [(1, 1.5, float("inf"), "a", None, b"\x00\xff", 2**63 - 1)]
    assert result.columns[-1] == "big" and result.error is None


def test_a_relative_path_is_the_callers(executor, database, monkeypatch):
    monkeypatch.chdir(database.parent)
    assert run_one(executor, Path("pets.sqlite"), "SELECT count(*) FROM pet").rows == [(4,)]


def test_a_path_may_hold_what_means_something_in_a_uri(executor, database, tmp_path):
    folder = tmp_path / "a?mode=rwc#b%41 é"
    folder.mkdir()
    (folder / "x.sqlite").write_bytes(database.read_bytes())
    assert run_one(executor, folder / "x.sqlite", "SELECT count(*) FROM pet").rows == [(4,)]


def test_text_that_is_not_utf8_is_decoded(executor, database):
    assert run_one(executor, database, "SELECT name FROM pet WHERE id = 4").rows == [("\ufffdA",)]


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("SELEC name FROM pet", execute.PARSE),
        ("SELECT name FROM", execute.PARSE),
        ("SELECT 'name FROM pet", execute.PARSE),
        ("", execute.PARSE),
        ("-- nothing", execute.PARSE),
        ("SELECT 1 \0", execute.PARSE),
        ("SELECT '\ud800'", execute.PARSE),
        ("SELECT name FROM dog", execute.NO_TABLE),
        ("SELECT colour FROM pet", execute.NO_COLUMN),
        ("SELECT name FROM pet WHERE max(weight) > 1", execute.FAILS),
        ("SELECT soundness(name) FROM pet", execute.FAILS),
    ],
)
def test_errors_have_a_class(executor, database, sql, error):
    result = run_one(executor, database, sql)
    assert (result.rows, result.error) == (None, error)


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT text FROM note WHERE note MATCH 'tea' ORDER BY rank, rowid", [("green tea",), ("black tea",)]),
        ("SELECT highlight(note, 0, '<', '>') FROM note('milk')", [("<milk>",)]),
        ("SELECT snippet(old) FROM old WHERE text MATCH 'green'", [("<b>green</b> tea",)]),
        ("SELECT id FROM area WHERE low > 5", [(2,)]),
        ("SELECT value FROM shop, json_each(shop.list)", [("tea",), ("milk",)]),
        ("SELECT count(*) FROM json_tree('[1, [2]]')", [(4,)]),
        ("SELECT value FROM bought WHERE value LIKE 'm%'", [("milk",)]),
        ("SELECT doc FROM word WHERE term = 'tea'", [(2,)]),
    ],
)
def test_virtual_tables_are_read(executor, virtual, sql, rows):
    result = run_one(executor, virtual, sql)
    assert (result.rows, result.message) == (rows, "")


def test_a_table_of_a_module_that_is_not_there_fails_alone(executor, virtual):
    lost, found = executor.run([(virtual, "SELECT * FROM place"), (virtual, "SELECT count(*) FROM shop")])
    assert (lost.error, lost.message, found.rows) == (execute.FAILS, "no such module: VirtualPlace", [(1,)])


def test_what_steers_a_terminal_is_no_part_of_a_message(executor, database):
    jobs = [(database, "SELECT `\x1b[31mred` FROM pet"), (database, "SELECT * FROM [\x9b2J]")]
    assert [result.message for result in executor.run(jobs)] == ["no such column: \ufffd[31mred", "no such table: \ufffd2J"]
    (verdict,) = executor.compare([Comparison((database,), "SELECT 1", "SELECT a\x07(1)", ordered=False)])
    assert verdict.message.isprintable()
    assert run_one(executor, database, "SELECT [\r]").message == "no such column: \ufffd"


# writing


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO pet VALUES (9, 'x', 1)",
        "WITH w AS (SELECT 9) INSERT INTO pet SELECT 9, 'x', 1 FROM w",
        "REPLACE INTO pet VALUES (1, 'x', 1)",
        "UPDATE pet SET name = 'x'",
        "UPDATE pet SET name = 'x' RETURNING name",
        "DELETE FROM pet",
        "DROP TABLE pet",
        "CREATE TABLE t (x)",
        "CREATE TEMP TABLE t (x)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE INDEX i ON pet (name)",
        "CREATE VIRTUAL TABLE t USING fts5(x)",
        "ALTER TABLE pet RENAME TO cat",
        "ATTACH 'other.sqlite' AS other",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "VACUUM",
        "VACUUM INTO 'copy.sqlite'",
        "REINDEX",
        "ANALYZE",
        "BEGIN IMMEDIATE",
        "SAVEPOINT s",
        "COMMIT",
        "PRAGMA user_version = 7",
        "PRAGMA journal_mode = WAL",
        "PRAGMA writable_schema = ON",
        "PRAGMA hard_heap_limit = 0",
        "PRAGMA query_only",
        "SELECT * FROM pragma_table_info('pet')",
        "SELECT load_extension('/tmp/x.so')",
        "SELECT LOAD_EXTENSION('/tmp/x.so', 'init')",
        "SELECT 1; DROP TABLE pet",
        "SELECT 1; SELECT 2",
    ],
)
def test_anything_but_one_reading_statement_is_refused(executor, database, sql):
    before = contents(database.parent)
    assert run_one(executor, database, sql).error == execute.REFUSED
    assert contents(database.parent) == before


def test_a_refused_statement_leaves_no_state_behind(executor, database):
    for sql in ("BEGIN", "CREATE TEMP TABLE pet (x)", "PRAGMA case_sensitive_like = ON"):
        executor.run([(database, sql)] * 4)
    assert run_one(executor, database, "SELECT count(*) FROM pet WHERE name LIKE 'REX'").rows == [(1,)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT fts3_tokenizer('simple')",
        "SELECT FTS3_TOKENIZER('simple', x'00')",
        "INSERT INTO note VALUES ('x')",
        "INSERT INTO note (note) VALUES ('optimize')",
        "DELETE FROM area",
        "DELETE FROM area_node",
        "SELECT optimize(old) FROM old",
        "SELECT rtreecheck('area')",
        "UPDATE sqlite_master SET sql = ''",
        "DELETE FROM sqlite_master",
        "PRAGMA page_size = 512",
        "CREATE VIRTUAL TABLE t USING fts5(x)",
        "DROP TABLE note",
    ],
)
def test_virtual_tables_are_not_written(executor, virtual, sql):
    before = contents(virtual.parent)
    assert run_one(executor, virtual, sql).error == execute.REFUSED
    assert contents(virtual.parent) == before


# the states in which a database can be


def make_wal(folder: Path, rows: int = 3) -> sqlite3.Connection:
    """`pet.sqlite` in WAL mode, whose rows stand in the log alone, with the connection that wrote them."""
    folder.mkdir(exist_ok=True)
    connection = sqlite3.connect(folder / "pet.sqlite")
    connection.executescript("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE pet (a INTEGER);")
    with connection:
        connection.executemany("INSERT INTO pet VALUES (?)", [(i,) for i in range(rows)])
    return connection


def wal_closed(folder: Path) -> None:
    make_wal(folder).close()


def wal_after_a_crash(folder: Path, *without: str) -> None:
    connection = make_wal(folder.with_name("writing"))
    folder.mkdir()
    for path in folder.with_name("writing").iterdir():
        if not path.name.endswith(without or ("nothing",)):
            shutil.copy(path, folder)
    connection.close()


def wal_after_a_crash_without_its_index(folder: Path) -> None:
    wal_after_a_crash(folder, "-shm")


def wal_with_an_empty_log(folder: Path) -> None:
    wal_closed(folder)
    (folder / "pet.sqlite-wal").touch()


def journal_after_a_crash(folder: Path) -> None:
    """A transaction that was written to the file in part, and has to be rolled back."""
    writing = folder.with_name("writing")
    writing.mkdir(), folder.mkdir()
    with closing(sqlite3.connect(writing / "pet.sqlite")) as connection:
        connection.executescript("CREATE TABLE pet (a INTEGER, b TEXT); PRAGMA cache_size = 1;")
        with connection:
            connection.executemany("INSERT INTO pet VALUES (?, ?)", [(i, "x" * 3000) for i in range(3)])
        connection.execute("UPDATE pet SET a = 9, b = b || b")
        connection.executemany("INSERT INTO pet VALUES (8, ?)", [("y" * 9000,)] * 20)
        for path in writing.iterdir():
            shutil.copy(path, folder)
    assert (folder / "pet.sqlite-journal").stat().st_size


STATES = [wal_closed, wal_after_a_crash, wal_after_a_crash_without_its_index, wal_with_an_empty_log, journal_after_a_crash]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_a_database_is_read_in_any_state_and_stays_in_it(executor, tmp_path, state):
    folder = tmp_path / "state"
    state(folder)
    path, before = folder / "pet.sqlite", contents(folder)
    rows = [(0,), (1,), (2,)]
    for _ in range(2):
        assert run_one(executor, path, "SELECT a FROM pet").rows == rows
        assert executor.compare([Comparison((path,), "SELECT a FROM pet", "SELECT a FROM pet", ordered=False)])[0].match
        schema = schema_of_database(path)
        assert schema.tables == ("pet",) and Values(path, schema).mentioned("0?") == []
        assert contents(folder) == before


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_a_folder_that_may_not_be_written(tmp_path, state):
    folder = tmp_path / "state"
    state(folder)
    for path in (*folder.iterdir(), folder):
        path.chmod(path.stat().st_mode & 0o555)
    before = contents(folder)
    code = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from data.sqlite.execute import Executor
from data.benchmark.spider import schema_of_database
path = {str(folder / "pet.sqlite")!r}
with Executor(workers=1) as pool:
    print(os.access({str(folder)!r}, os.W_OK), schema_of_database(path).tables, pool.run([(path, "SELECT a FROM pet")])[0])
"""
    plain = [] if os.geteuid() else ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]  # root may write anywhere
    done = subprocess.run([*plain, sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("False ('pet',) Result(rows=[(0,), (1,), (2,)]"), done
    assert contents(folder) == before


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
@pytest.mark.parametrize("staying", [True, False], ids=["one connection", "a connection each"])
def test_a_database_with_a_writer_at_work(executor, tmp_path, mode, staying):
    """Each commit adds two rows: no statement may see one of them, or fail."""
    path = tmp_path / "pet.sqlite"
    code = f"""
import sqlite3, time
def connect():
    connection = sqlite3.connect({str(path)!r}, timeout=10)
    connection.execute("PRAGMA journal_mode = {mode}")
    return connection
one = connect()
one.execute("CREATE TABLE pet (a INTEGER)"), one.commit()
if not {staying}:
    one.close()
print("ready", flush=True)
while True:
    connection = one if {staying} else connect()
    with connection:
        connection.executemany("INSERT INTO pet VALUES (?)", [(1,), (2,)])
    if not {staying}:
        connection.close()
    time.sleep(0.002)
"""
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout.readline() == "ready\n"
        counts = []
        for _ in range(60):
            results = executor.run([(path, "SELECT count(*) FROM pet")] * 4)
            assert [result.error for result in results] == [None] * 4, results
            counts += [result.rows[0][0] for result in results]
            assert schema_of_database(path).tables == ("pet",)
        assert all(count % 2 == 0 for count in counts) and counts[-1] > counts[0]
    finally:
        writer.kill()
        writer.wait()
    beside = {f"pet.sqlite{end}" for end in ("", "-wal", "-shm", "-journal")}
    assert {file.name for file in tmp_path.iterdir()} <= beside


@pytest.mark.skipif(not Path("/proc").exists(), reason="the writer has to be another process, which reads no locks of ours")
def test_a_log_that_is_in_use_is_left_alone(executor, tmp_path):
    """Through its index, which other readers write to."""
    code = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from pathlib import Path
from test_execute import make_wal
connection = make_wal(Path({str(tmp_path)!r}))
print("ready", flush=True)
sys.stdin.read()
"""
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as writer:
        assert writer.stdout.readline() == "ready\n"
        path, before = tmp_path / "pet.sqlite", contents(tmp_path)
        assert len(before) == 3
        assert run_one(executor, path, "SELECT count(*) FROM pet").rows == [(3,)]
        assert schema_of_database(path).tables == ("pet",)
        assert contents(tmp_path) == before
        writer.communicate()
    assert list(tmp_path.iterdir()) == [path] and run_one(executor, path, "SELECT count(*) FROM pet").rows == [(3,)]


def test_a_private_copy_follows_its_file_and_goes_with_its_process(tmp_path):
    wal_after_a_crash_without_its_index(tmp_path / "state")
    path = tmp_path / "state/pet.sqlite"
    code = f"""
import sys, tempfile
sys.path.insert(0, {str(ROOT)!r})
tempfile.tempdir = {str(tmp_path / "aside")!r}
from data.sqlite.execute import Executor
with Executor(workers=1) as pool:
    for _ in range(2):
        print(pool.run([({str(path)!r}, "SELECT count(*) FROM pet")])[0].rows, flush=True)
        sys.stdin.readline()
"""
    (tmp_path / "aside").mkdir()
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as reader:
        assert reader.stdout.readline() == "[(3,)]\n"
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("INSERT INTO pet VALUES (4)")
        reader.stdin.write("\n"), reader.stdin.flush()
        assert reader.stdout.readline() == "[(4,)]\n"
        assert list((tmp_path / "aside").iterdir()) != []
        reader.communicate("\n")
    assert list((tmp_path / "aside").iterdir()) == []


@pytest.mark.parametrize("make", [os.mkfifo, Path.touch, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_of_a_database_is_an_error_and_not_waited_for(executor, tmp_path, make):
    path = tmp_path / "odd.sqlite"
    make(path)
    result = run_one(executor, path, "SELECT 1")
    assert (result.rows, result.error) == (None, execute.NO_DATABASE) and str(path) in result.message


# time


SPELLINGS = {
    ("SELECT T1.name FROM pet AS T1", "SELECT name FROM pet"): True,
    ("SELECT name FROM pet", "SELECT weight FROM pet"): False,
    ('SELECT name FROM pet WHERE name = "Rex"', "SELECT name FROM pet WHERE name = 'Rex'"): True,
    ("SELECT nothing FROM pet", "SELECT 1 FROM nowhere"): True,
    ("SELECT nothing FROM pet", "SELECT name FROM pet"): False,
    ("DELETE FROM pet", "DROP TABLE pet"): True,
    ("SELECT 1; SELECT 2", "SELECT 1"): False,
    ("SELECT " + "1 + " * 10**6 + "1", "SELECT 1"): False,
}


def test_spellings_of_one_program(executor, database):
    assert executor.same_programs([(database, *pair) for pair in SPELLINGS]) == list(SPELLINGS.values())


def test_spellings_of_a_virtual_table(executor, virtual):
    pairs = [(virtual, "SELECT text FROM note", "SELECT n.text FROM note AS n"), (virtual, "SELECT 1 FROM gone", "SELECT 1")]
    assert executor.same_programs(pairs) == [True, False]


def test_a_spelling_that_ends_its_worker_costs_the_others_nothing(database, monkeypatch):
    with Executor(workers=1) as executor:
        work, pairs = executor._map, list(SPELLINGS)

        def ending(tasks: list[dict], *others) -> list[dict]:
            """The first pair ends the worker of whatever task it is in."""
            crash = execute._reply(None, execute.CRASHED)
            return [crash if list(pairs[0]) in task["pairs"] else reply for task, reply in zip(tasks, work(tasks, *others))]

        monkeypatch.setattr(executor, "_map", ending)
        assert executor.same_programs([(database, *pair) for pair in pairs]) == [False, *list(SPELLINGS.values())[1:]]


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e10, 3601.0])
def test_a_limit_of_time_that_is_none_is_refused(seconds):
    with pytest.raises(ValueError, match="seconds"):
        Executor(seconds=seconds)


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_what_a_stopped_machine_cost_its_time_is_run_again(tmp_path, database):
    """The whole process group is stopped for longer than the limit, in the middle of statements and of comparisons."""
    slow = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 300000) SELECT count(*) FROM c"
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from data.sqlite.execute import Comparison, Executor
slow, path = {slow!r}, {str(database)!r}
with Executor(workers=2, seconds=2.0) as pool:
    pool.run([(path, "SELECT 1")] * 2)
    print("ready", flush=True)
    verdicts = pool.compare([Comparison((path,), slow + f" -- {{i}}", slow, False) for i in range(40)])
    results = pool.run([(path, slow)] * 40 + [(path, {ENDLESS!r})])
print(sum(verdict.match for verdict in verdicts), sum(result.error is None for result in results), results[-1].error)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout.readline() == "ready\n"
    for running in (0.3, 0.5):
        time.sleep(running)
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(4)
        os.killpg(process.pid, signal.SIGCONT)
    assert process.communicate(timeout=120)[0] == f"40 40 {execute.TIMED_OUT}\n"


@pytest.mark.parametrize("sql", [ENDLESS, ONE_LONG_STEP], ids=["endless", "one long step"])
def test_a_statement_ends_within_a_fifth_of_a_second_of_its_limit(database, sql):
    seconds = []
    with Executor(workers=1, seconds=0.5) as pool:
        for _ in range(20):  # the best of them, since other processes may hold the cores
            pool.run([(database, "SELECT 1")])
            start = time.monotonic()
            assert run_one(pool, database, sql).error == execute.TIMED_OUT
            seconds.append(time.monotonic() - start)
            if seconds[-1] < 0.7:
                break
    assert 0.5 <= min(seconds) < 0.7


def test_rows_without_end_are_stopped_too(database):
    sql = ENDLESS.replace("count(*)", "x")
    with Executor(workers=1, seconds=0.3, max_rows=10**9) as pool:
        assert run_one(pool, database, sql).error in {execute.TIMED_OUT, execute.TOO_LARGE}
        verdict = pool.compare([Comparison((database,), "SELECT 1", sql, ordered=False)])[0]
    assert (verdict.match, verdict.error) == (False, execute.TIMED_OUT)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_no_core_is_busy_after_a_statement_was_stopped(database):
    with Executor(workers=2, seconds=0.3) as pool:
        pool.run([(database, ENDLESS), (database, ONE_LONG_STEP)])
        pids = [worker.process.pid for worker in pool._workers]
        for _ in range(10):  # a new worker may still be starting
            before = [processor_seconds(pid) for pid in pids]
            time.sleep(0.3)
            if [processor_seconds(pid) for pid in pids] == before:
                return
    pytest.fail("a worker is busy without a task")


def test_a_stopped_statement_does_not_hold_up_the_others(database):
    jobs = [(database, ENDLESS), *[(database, "SELECT 1")] * 20]
    with Executor(workers=2, seconds=0.5) as pool:
        start = time.monotonic()
        results = pool.run(jobs)
    assert [result.error for result in results] == [execute.TIMED_OUT, *[None] * 20]
    assert time.monotonic() - start < 60


def test_the_comparison_of_rows_has_a_limit_too(database, monkeypatch):
    worker = ROOT / "data" / "sqlite" / "execute.py"
    slow = worker.read_text().replace("def rows_match(gold", "def rows_match(*_):\n    time.sleep(60)\n\n\ndef _(gold")
    copy = database.parent.parent / "slow_execute.py"
    copy.write_text(slow)
    monkeypatch.setattr(execute, "__file__", str(copy))
    with Executor(workers=1, seconds=0.3) as pool:
        verdict = pool.compare([Comparison((database,), "SELECT 1", "SELECT 2", ordered=False)])[0]
    assert verdict.error == execute.TIMED_OUT


def test_the_comparison_of_many_rows_has_more_time(database, monkeypatch):
    worker = ROOT / "data" / "sqlite" / "execute.py"
    copy = database.parent.parent / "slower_execute.py"
    text = worker.read_text().replace("    if len(gold) != len(predicted):\n", "    time.sleep(2)\n    if False:\n", 1)
    assert "SECONDS_PER_VALUE = 1e-5" in text
    copy.write_text(text.replace("SECONDS_PER_VALUE = 1e-5", "SECONDS_PER_VALUE = 1e-3"))  # a minute for the rows below
    monkeypatch.setattr(execute, "__file__", str(copy))
    rows = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 20000) SELECT x, x, x FROM c"
    jobs = [Comparison((database,), sql, sql, ordered=False) for sql in (rows, "SELECT 1")]
    with Executor(workers=1, seconds=1) as pool:
        assert [verdict.error for verdict in pool.compare(jobs)] == [None, execute.TIMED_OUT]


# size


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT zeroblob(1000000000)",
        "SELECT length(zeroblob(1000000000))",
        "SELECT hex(zeroblob(1000000))",
        "SELECT randomblob(100000000)",
        "SELECT replace(printf('%.*c', 1000000, 'a'), 'a', 'aaaaaaaaaa')",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 300000) SELECT group_concat(x) FROM c",
        "WITH RECURSIVE c(x) AS (SELECT 'a' UNION ALL SELECT x || x FROM c) SELECT max(length(x)) FROM c",
        "SELECT " + "(" * 5000 + "1" + ")" * 5000,
        "SELECT 1" + " + 1" * 4000,
        "SELECT " + "1, " * 4000 + "1",
        "SELECT 1" + " UNION SELECT 1" * 1000,
        "SELECT '" + "x" * 30_000 + "'",
        "SELECT '" + "x" * 3_000_000 + "'",
        f"SELECT name FROM pet WHERE name LIKE '{'%a' * 2000}'",
    ],
)
def test_large_values_and_statements_are_refused(executor, database, sql):
    assert run_one(executor, database, sql).error == execute.TOO_LARGE


def test_printf_cannot_make_a_large_value(executor, database):
    assert run_one(executor, database, "SELECT printf('%.*c', 100000000, 'x')").rows in (None, [(None,)])


def test_rows_are_limited(database):
    with Executor(workers=1, seconds=5, max_rows=1000) as pool:
        rows = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT {}) SELECT x FROM c"
        assert len(run_one(pool, database, rows.format(1000)).rows) == 1000
        assert run_one(pool, database, rows.format(1001)).error == execute.TOO_LARGE


def test_the_bytes_of_a_result_are_limited(database):
    sql = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT printf('%.*c', 100000, 'x') FROM c"
    with Executor(workers=1, seconds=5, max_result_bytes=10_000_000) as pool:
        assert run_one(pool, database, sql).error == execute.TOO_LARGE


def test_the_memory_of_a_worker_is_limited(database):
    sorted_blobs = (
        "WITH RECURSIVE c(x, y) AS (SELECT 1, randomblob(500000) UNION ALL SELECT x + 1, randomblob(500000) FROM c "
        "LIMIT 5000) SELECT x FROM c ORDER BY y"  # 2.5 GB, if it were let
    )
    with Executor(workers=1, seconds=20, max_memory_bytes=300 << 20) as pool:
        assert run_one(pool, database, sorted_blobs).error == execute.TOO_LARGE
        assert run_one(pool, database, "SELECT count(*) FROM pet").rows == [(4,)]


# workers and databases


def test_a_crash_takes_one_statement_with_it(database):
    with Executor(workers=1, seconds=5) as pool:
        pool.run([(database, "SELECT 1")])
        victim = pool._workers[0].process.pid
        timer = threading.Timer(0.3, os.kill, (victim, signal.SIGSEGV))
        timer.start()
        results = pool.run([(database, ENDLESS), (database, "SELECT 1"), (database, "SELECT 2")])
        timer.join()
    assert [result.error for result in results] == [execute.CRASHED, None, None]


def test_a_worker_that_dies_between_calls_is_replaced(database):
    with Executor(workers=1) as pool:
        for _ in range(3):
            assert run_one(pool, database, "SELECT 1").rows == [(1,)]
            pool._workers[0].process.kill()
            pool._workers[0].process.wait()


def test_a_worker_that_cannot_start_is_an_error_of_the_caller(database, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Executor(workers=1) as pool, pytest.raises(RuntimeError, match="does not start"):
        run_one(pool, database, "SELECT 1")


def test_a_gold_query_that_does_not_end_is_named_as_the_gold(database):
    with Executor(workers=1, seconds=0.3) as pool:
        for gold in (ENDLESS, ONE_LONG_STEP):
            verdict = pool.compare([Comparison((database,), gold, "SELECT 1", ordered=False)])[0]
            assert (verdict.match, verdict.error) == (False, execute.GOLD_FAILS)


def test_a_database_that_is_missing_locked_or_broken_is_an_error_result(executor, tmp_path, database):
    locked, broken, folder = tmp_path / "locked.sqlite", tmp_path / "broken.sqlite", tmp_path / "folder.sqlite"
    locked.write_bytes(database.read_bytes())
    broken.write_bytes(b"SQLite format 3\0" + b"\xff" * 4000)
    folder.mkdir()
    connection = sqlite3.connect(locked)
    connection.execute("BEGIN EXCLUSIVE")
    results = executor.run([(path, "SELECT * FROM pet") for path in (locked, broken, folder, tmp_path / "none.sqlite")])
    connection.close()
    assert [result.error for result in results] == [execute.NO_DATABASE] * 4
    assert not (tmp_path / "none.sqlite").exists()


def test_a_database_that_vanishes_during_a_run_fails_its_own_statements_alone(executor, tmp_path, database):
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(database.read_bytes())
    assert run_one(executor, copy, "SELECT count(*) FROM pet").rows == [(4,)]
    copy.unlink()
    jobs = [Comparison((path,), "SELECT 1", "SELECT 1", ordered=False) for path in (copy, database)]
    assert [verdict.error for verdict in executor.compare(jobs)] == [execute.NO_DATABASE, None]


def test_a_comparison_without_a_database_is_refused(executor):
    with pytest.raises(ValueError, match="at least one database"):
        executor.compare([Comparison((), "SELECT 1", "SELECT 2", ordered=False)])


def test_closing_ends_the_workers_and_a_later_call_starts_new_ones(database):
    pool = Executor(workers=2)
    pool.run([(database, "SELECT 1")] * 4)
    processes = [worker.process for worker in pool._workers]
    pool.close()
    assert len(processes) == 2 and all(process.poll() is not None for process in processes)
    assert run_one(pool, database, "SELECT 2").rows == [(2,)]
    pool.close()


def test_workers_end_when_their_parent_is_killed(database):
    parent = f"""
import sys, threading, time
sys.path.insert(0, {str(ROOT)!r})
from data.sqlite.execute import Executor
pool = Executor(workers=2, seconds=1)
jobs = [({str(database)!r}, sql) for sql in ({ENDLESS!r}, {ONE_LONG_STEP!r})]
thread = threading.Thread(target=pool.run, args=(jobs,), daemon=True)
thread.start()
while thread.is_alive() and [getattr(worker, "stage", "") for worker in pool._workers] != ["predicted"] * 2:
    time.sleep(0.01)
print(*(worker.process.pid for worker in pool._workers), flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    process.kill()
    process.communicate()
    assert len(pids) == 2
    wait_for(lambda: not any(_running(pid) for pid in pids))


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_do_not_import_the_callers_script_or_packages(database, tmp_path):
    """A training script without a main guard, whose environment would load torch into every Python."""
    (tmp_path / "sitecustomize.py").write_text("print('started with site packages')")
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys\nprint('script')\nsys.path.insert(0, {str(ROOT)!r})\nfrom data.sqlite.execute import Executor\n"
        f"with Executor(workers=2) as pool:\n    print(pool.run([({str(database)!r}, 'SELECT 7')] * 3)[2].rows)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    output = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout.splitlines()
    assert output == ["started with site packages", "script", "[(7,)]"]


# comparing rows


def by_definition(gold: list[tuple], predicted: list[tuple], ordered: bool) -> bool:
    """The same rows under some order of the columns, by trying all orders."""
    if len(gold) != len(predicted) or gold and len(gold[0]) != len(predicted[0]):
        return False
    if not gold:
        return True
    for order in itertools.permutations(range(len(gold[0]))):
        rows = [tuple(row[column] for column in order) for row in predicted]
        if rows == gold if ordered else Counter(rows) == Counter(gold):
            return True
    return False


def test_rows_match_by_definition():
    rng = random.Random(7)
    outcomes = Counter()
    for _ in range(3000):
        height, width = rng.randrange(5), rng.randrange(1, 5)
        gold = [tuple(rng.randrange(2) for _ in range(width)) for _ in range(height)]
        order = rng.sample(range(width), width)
        predicted = [tuple(row[column] for column in order) for row in gold]
        if rng.random() < 0.5:
            rng.shuffle(predicted)
        if predicted and rng.random() < 0.5:  # two values change places: the columns keep what they hold
            one, other, column = rng.randrange(height), rng.randrange(height), rng.randrange(width)
            swapped = [list(row) for row in predicted]
            swapped[one][column], swapped[other][column] = swapped[other][column], swapped[one][column]
            predicted = [tuple(row) for row in swapped]
        ordered = rng.random() < 0.5
        expected = by_definition(gold, predicted, ordered)
        outcomes[expected] += 1
        assert rows_match(gold, predicted, ordered) == expected, (gold, predicted, ordered)
    assert min(outcomes.values()) > 300


@pytest.mark.parametrize(
    ("gold", "predicted", "ordered", "expected"),
    [
        ([(1, "a"), (2, "b")], [("b", 2), ("a", 1)], False, True),
        ([(1, "a"), (2, "b")], [("b", 2), ("a", 1)], True, False),
        ([(1,), (1,), (2,)], [(1,), (2,), (2,)], False, False),
        ([(1,)], [(1.0,)], False, True),
        ([(1,)], [("1",)], False, False),
        ([(None,)], [(0,)], False, False),
        ([], [], True, True),
        ([(1, 2)], [(1,)], False, False),
        ([(1, 2), (2, 1)], [(1, 1), (2, 2)], False, False),  # each column alone agrees, the rows do not
    ],
)
def test_rows_match_cases(gold, predicted, ordered, expected):
    assert rows_match(gold, predicted, ordered) is expected


def test_large_results_are_compared_in_seconds(tmp_path):
    path, rng, count = tmp_path / "large.sqlite", random.Random(5), 300_000
    orders = [rng.sample(range(count), count) for _ in range(3)]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (a, b, c, d)")  # the first three hold the same values
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", zip(*orders, (f"name {i % 999}" for i in range(count))))
    pairs = [
        ("SELECT a, b, c, d FROM t", "SELECT d, c, a, b FROM t ORDER BY b", True),
        ("SELECT a, d FROM t", "SELECT d, a FROM t ORDER BY c", True),
        ("SELECT a, d, a FROM t", "SELECT a, a, d FROM t ORDER BY c", True),
        ("SELECT a, b, c FROM t", "SELECT b, c, CASE a WHEN 1 THEN 2 WHEN 2 THEN 1 ELSE a END FROM t ORDER BY b", False),
    ]
    start = time.monotonic()
    with Executor(workers=2) as pool:
        verdicts = pool.compare([Comparison((path,), gold, predicted, ordered=False) for gold, predicted, _ in pairs])
    assert [verdict.match for verdict in verdicts] == [match for *_, match in pairs], verdicts
    assert [verdict.error for verdict in verdicts] == [None, None, None, execute.WRONG_ROWS]
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("value", ["{i}", "7", "{i} % 3", "a = {i}", "a / ({i} + 1)"])
def test_more_columns_than_calls_may_be_nested(tmp_path, value):
    path, width = tmp_path / "wide.sqlite", 1500
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (a INTEGER)")
        connection.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(width)])
    columns = [value.format(i=i) for i in range(width)]
    gold = f"SELECT {','.join(columns)} FROM t WHERE a < 1200"
    permuted = f"SELECT {','.join(random.Random(2).sample(columns, width))} FROM t WHERE a < 1200 ORDER BY a DESC"
    wrong = f"SELECT {','.join([*columns[1:], '-1'])} FROM t WHERE a < 1200"
    with Executor(workers=2, max_statement_chars=50_000) as pool:
        verdicts = pool.compare([Comparison((path,), gold, predicted, ordered=False) for predicted in (permuted, wrong)])
    assert [(verdict.match, verdict.error) for verdict in verdicts] == [(True, None), (False, execute.WRONG_ROWS)], verdicts


@pytest.mark.parametrize("kind", ["equal columns", "unit matrix", "random bits", "swapped bits"])
def test_wide_results_are_compared_without_trying_all_orders(kind):
    rng, width = random.Random(3), 16
    if kind == "equal columns":
        gold = [(number,) * width for number in range(40)]
    elif kind == "unit matrix":
        gold = [tuple(int(row == column) for column in range(width)) for row in range(width)]
    else:
        gold = [tuple(rng.randrange(2) for _ in range(width)) for _ in range(60)]
    order = rng.sample(range(width), width)
    predicted = [tuple(row[column] for column in order) for row in gold]
    rng.shuffle(predicted)
    start = time.process_time()
    if kind == "swapped bits":
        # exchange two columns in half of the rows: all counts of a single column stay close to the gold's
        predicted = [(b, a, *rest) if i % 2 else (a, b, *rest) for i, (a, b, *rest) in enumerate(predicted)]
        assert not rows_match(gold, predicted, ordered=False)
    else:
        assert rows_match(gold, predicted, ordered=False)
        assert not rows_match(gold, [*predicted[:-1], predicted[0]], ordered=False)
    assert time.process_time() - start < 5
