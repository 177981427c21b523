"""Read a directory in Spider's layout: questions, gold SQL, schemas and databases.

    python3 -m data.spider DIR             says what the directory holds
    python3 -m data.spider --make DIR      writes DIR/tables.json from the SQLite files in DIR/database/

The layout (https://yale-lily.github.io/spider): `train_spider.json`, `train_others.json`, `dev.json`, `tables.json`,
`database/<db_id>/<db_id>.sqlite`; the test split stands in `test.json`, `test_tables.json`, `test_database/`.

Of one's own, `database/<db_id>.sqlite` will do, `train.json` is as good a name, and `test` needs no tables and databases apart.
Questions are objects with `db_id`, `question` and `query`: a list of them in JSON, one a line (`.jsonl`), or the rows of a
table (`.csv`, `.tsv`); each may be packed by gzip (`dev.jsonl.gz`).
"""

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from data.benchmark.foreign_keys import guess
from data.benchmark.prompt import gold_to_run, target
from data.benchmark.schema import SUFFIXES, Benchmark, Example, Schema, database_file
from data.benchmark.spelling import spelled
from data.benchmark.values import Values
from data.common.commands import command_parser
from data.common.errors import UserError, printable
from data.common.files import move_aside, read_records, write_atomically
from data.common.output import say
from data.sqlite.execute import Executor, in_wal_mode, quoted, read_database, readable

# split -> the possible names of its file of examples (without extension), its tables file and its databases' folder
LAYOUT = {
    "train": (("train_spider", "train"), ("tables.json",), ("database",)),
    "train_others": (("train_others",), ("tables.json",), ("database",)),
    "dev": (("dev",), ("tables.json",), ("database",)),
    "test": (("test",), ("test_tables.json", "tables.json"), ("test_database", "database")),
}
FORMS = tuple(f"{form}{packed}" for form in (".json", ".jsonl", ".csv", ".tsv") for packed in ("", ".gz"))  # of examples
OWN = "write your own (python3 -m data.spider --help says how)"
GET_SPIDER = f"get Spider from https://yale-lily.github.io/spider, {OWN}, or use --data sample"
MEND_EXAMPLES = "give a list of objects with db_id, question and query, one such object a line (.jsonl), or a .csv of them"
MEND_TABLES = "python3 -m data.spider --make DIR makes it of your own databases; Spider's is to be downloaded again"


def files_of(root: Path, split: str) -> tuple[Path, Path, Path]:
    """The paths of a split's examples, tables file and databases folder in a directory, whether or not they exist.

    Raises UserError where several files could hold the examples.
    """
    names, *others = LAYOUT[split]
    found = [path for name in names for form in FORMS if (path := root / f"{name}{form}").exists()]
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1].name} both hold the split {split}: remove one of them")
    tables, folder = (next((root / name for name in each if (root / name).exists()), root / each[-1]) for each in others)
    return (found or [root / f"{names[0]}.json"])[0], tables, folder


def splits_in(root: Path) -> list[str]:
    """The splits in a directory. Raises UserError where the directory does not exist or holds none."""
    if not root.is_dir():
        raise UserError(f"data directory {root} does not exist: {GET_SPIDER}")
    if found := [split for split in LAYOUT if files_of(root, split)[0].exists()]:
        return found
    names = ", ".join(f"{name}.json" for names, *_ in LAYOUT.values() for name in names)
    raise UserError(f"{root} holds none of {names}, nor .jsonl or .csv of those names: {GET_SPIDER}")


def load(
    directory: str | Path,
    splits: Sequence[str] = ("train", "dev"),
    train_others: bool = False,
    values: bool = False,
    overfit: int = 0,
    plain_sql: bool = False,
    full_names: bool = False,
) -> Benchmark:
    """Read and check `splits` (of `train`, `dev`, `test`); `train_others` adds that file to `train`.

    `values` looks up the cells that each question mentions; otherwise examples have none. `overfit`, unless 0, keeps only so
    many examples of `train`, evenly spaced, and uses them as `dev` too. `plain_sql` puts the answers of `train` into one
    spelling (`spelling.py`) where the meaning stays the same; gold to score against stays as it is. `full_names` does the
    same with each column's table before it, and prompts write columns likewise.

    Raises UserError, naming file and remedy, for whatever would make a run fail later: a missing or malformed file, an
    example without question or query, a db_id without schema, a database that is missing or not SQLite, an empty split.
    """
    root = Path(directory)
    if not root.is_dir():
        raise UserError(f"data directory {root} does not exist: {GET_SPIDER}")
    schemas: dict[str, Schema] = {}
    found: dict[str, list[Example]] = {}
    folders: dict[str, Path] = {}
    for split in splits:
        path, tables, folders[split] = files_of(root, split)
        others = [files_of(root, "train_others")[0]] if split == "train" and train_others else []
        split_schemas = read_schemas(tables)
        examples = read_examples([path, *others], split_schemas)
        for db_id in sorted({example.db_id for example in examples}):
            check_database(database_file(folders[split], db_id))
            schemas[db_id] = split_schemas[db_id]
        found[split] = examples
    if overfit:
        train, count = found["train"], min(overfit, len(found["train"]))
        few = [replace(train[i * len(train) // count], index=i) for i in range(count)]
        found, folders = dict(train=few, dev=few), dict.fromkeys(("train", "dev"), folders["train"])
    if full_names:
        schemas = {db_id: replace(schema, full_names=True) for db_id, schema in schemas.items()}
    benchmark = Benchmark(root, schemas, found, folders)
    if (plain_sql or full_names) and "train" in found:
        benchmark = with_plain_sql(benchmark)
    return with_values(benchmark) if values else benchmark


def with_plain_sql(benchmark: Benchmark) -> Benchmark:
    """Put the training answers into one spelling, with the tables before columns where the schema's `full_names` is set.

    SQLite compiles each answer in both spellings. Answers whose programs differ stay as they are; their number is printed to
    standard output.
    """

    examples = benchmark.splits["train"]
    different = dict.fromkeys((example.db_id, example.sql) for example in examples)
    pairs = {(db_id, sql): (target(sql), spelled(sql, benchmark.schemas[db_id])) for db_id, sql in different}
    changed = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
    with Executor() as executor:
        jobs = [(benchmark.databases(db_id, "train")[0], *pair) for (db_id, _), pair in changed.items()]
        kept = {key for key, same in zip(changed, executor.same_programs(jobs, progress=True)) if not same}
    count = sum((example.db_id, example.sql) in kept for example in examples)
    if count:
        say(f"{count:,} of {len(examples):,} training answers stay as they are: in one spelling they would mean another thing")
    written = {key: key[1] if key in kept else new for key, (_, new) in pairs.items()}
    train = [replace(example, sql=written[example.db_id, example.sql]) for example in examples]
    return replace(benchmark, splits=benchmark.splits | {"train": train})


def with_values(benchmark: Benchmark) -> Benchmark:
    """Add to each example the cells that it mentions. Raises UserError for a database that cannot be read."""

    index: dict[tuple[str, str], Values] = {}
    splits: dict[str, list[Example]] = {}
    for split, examples in benchmark.splits.items():
        splits[split] = []
        for example in examples:
            key = split, example.db_id
            if key not in index:
                index[key] = Values(benchmark.databases(example.db_id, split)[0], benchmark.schemas[example.db_id])
            splits[split].append(replace(example, values=tuple(index[key].mentioned(example.question))))
    return replace(benchmark, splits=splits)


def read_schemas(path: Path) -> dict[str, Schema]:
    """`tables.json` -> schemas by db_id. Raises UserError for an entry that is incomplete or contradicts itself."""
    entries = read_records(path, MEND_TABLES if path.exists() else GET_SPIDER)
    return {schema.db_id: schema for schema in (parse_schema(entry, path, i) for i, entry in enumerate(entries))}


def parse_schema(entry: dict, path: Path, position: int) -> Schema:
    """One entry of `tables.json`; `path` and `position` name it in the error."""
    try:
        tables = tuple(str(name) for name in entry["table_names_original"])
        columns = tuple((int(table), str(name)) for table, name in entry["column_names_original"])
        keys = [key if isinstance(key, list) else [key] for key in entry["primary_keys"]]
        kinds = tuple(str(kind) for kind in entry.get("column_types") or ())  # optional: no prompt needs them
        schema = Schema(
            db_id=folder_name(entry["db_id"]),
            tables=tables,
            columns=columns,
            column_types=(*kinds, *["text"] * len(columns))[: len(columns)],
            primary_keys=tuple(int(column) for key in keys for column in key),
            foreign_keys=tuple((int(child), int(parent)) for child, parent in entry["foreign_keys"]),
        )
        json.dumps(asdict(schema), ensure_ascii=False).encode()  # fails for lone surrogates, which tokenizers do not take
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is malformed ({error})"
        name = entry.get("db_id", f"number {position}")
        raise UserError(f"{path}: the entry {name} {what}: {MEND_TABLES}") from None
    inside = columns[:1] == ((-1, "*"),) and all(0 <= table < len(tables) for table, _ in columns[1:])
    keys = [*schema.primary_keys, *(column for pair in schema.foreign_keys for column in pair)]
    if not inside or not all(0 < column < len(columns) for column in keys):
        raise UserError(f"{path}: the entry {schema.db_id} refers to a table or column it lacks: {MEND_TABLES}")
    return schema


def folder_name(db_id: object) -> str:
    """Check a db_id, which also names a folder and a file. Raises ValueError for one that leads elsewhere."""
    if not isinstance(db_id, str) or db_id in ("", ".", "..") or not db_id.isprintable() or set(db_id) & set("/\\"):
        raise ValueError("its db_id is not the name of a folder")
    return db_id


def read_examples(paths: list[Path], schemas: dict[str, Schema]) -> list[Example]:
    """The examples of one split. Raises UserError for an example that is incomplete, and for an empty split."""

    examples: list[Example] = []
    for path in paths:
        for position, entry in enumerate(read_records(path, MEND_EXAMPLES if path.exists() else GET_SPIDER)):
            for key in ("db_id", "question", "query"):
                if not isinstance(entry.get(key), str) or not entry[key].strip():
                    raise UserError(f"{path}: example {position} has no {key}: add it or remove the example")
                if any("\ud800" <= character <= "\udfff" for character in entry[key]):
                    raise UserError(f"{path}: example {position}: half a character in its {key}: mend or remove the example")
            if not target(entry["query"]):
                what = "has a query of comments and semicolons alone"
                raise UserError(f"{path}: example {position} {what}: write its SQL or remove the example")
            if entry["db_id"] not in schemas:
                what = f"names the database {entry['db_id']}, which the tables file lacks"
                remedy = "add its schema there (python3 -m data.spider --make DIR) or remove the example"
                raise UserError(f"{path}: example {position} {what}: {remedy}")
            examples.append(Example(len(examples), entry["db_id"], entry["question"].strip(), entry["query"].strip()))
    if not examples:
        raise UserError(f"{paths[0]} holds no examples: {GET_SPIDER}")
    return examples


def check_database(path: Path) -> None:
    """Raise UserError unless `path` is a file with SQLite's header (https://www.sqlite.org/fileformat.html)."""
    try:
        in_wal_mode(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: name a SQLite file, or copy database/ beside the questions") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the file and its permissions") from None
    except sqlite3.DatabaseError:
        raise UserError(f"{path} is not a SQLite database: copy it again") from None


def schema_of_database(path: Path, db_id: str | None = None) -> Schema:
    """Read the schema of any SQLite file, as `tables.json` would give it (`db_id`: the file's stem unless given).

    Views count as tables. Shadow tables (https://www.sqlite.org/vtab.html#shadow_tables) are left out, and so are virtual
    tables and views that cannot be read, such as those of a missing module.
    Raises UserError where the file is missing, not SQLite, locked or without tables.
    """
    path = Path(path)
    check_database(path)
    try:
        return read_database(readable(path), lambda connection: _introspect(connection, db_id or path.stem))
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"{path} cannot be read ({error}): close whatever writes to it, or copy it again") from None


def tables_entry(path: Path, db_id: str) -> dict:
    """The `tables.json` entry of a SQLite file; natural names are made from the SQL names."""
    schema = schema_of_database(path, db_id)

    def natural(name: str) -> str:
        return name.replace("_", " ").lower()

    return {
        "db_id": db_id,
        "table_names_original": list(schema.tables),
        "table_names": [natural(name) for name in schema.tables],
        "column_names_original": [list(column) for column in schema.columns],
        "column_names": [[table, natural(name)] for table, name in schema.columns],
        "column_types": list(schema.column_types),
        "primary_keys": list(schema.primary_keys),
        "foreign_keys": [list(pair) for pair in schema.foreign_keys],
    }


def _introspect(connection: sqlite3.Connection, db_id: str) -> Schema:
    """Tables, columns and keys from SQLite's own catalogue."""
    tables, columns, types, primary = [], [(-1, "*")], ["text"], []
    position: dict[tuple[str, str], int] = {}  # names fold case, as SQLite compares them
    query = (
        "SELECT name, list.type FROM sqlite_master JOIN pragma_table_list AS list USING (name) WHERE list.schema = 'main' "
        "AND list.type <> 'shadow' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY sqlite_master.rowid"
    )
    connection.execute("BEGIN")  # so that all queries see the same state of the file
    for table, kind in connection.execute(query).fetchall():
        query = "SELECT name, type, pk FROM pragma_table_xinfo(?) WHERE hidden <> 1"  # includes generated columns
        try:
            found = connection.execute(query, (table,)).fetchall()
        except sqlite3.Error:
            if kind == "table":
                raise
            continue  # it needs a module, a function or a table that is missing
        for name, declared, key in found:
            position[table.lower(), name.lower()] = len(columns)
            if key:
                primary.append(len(columns))
            columns.append((len(tables), name))
            types.append(_spider_type(declared))
        tables.append(table)
    if not tables:
        raise UserError(f"the database {db_id} holds no tables: name a database that does")
    foreign = []
    for table in tables:
        # a foreign key without a target column refers to the parent's primary key
        query = 'SELECT "from", "table", "to", seq FROM pragma_foreign_key_list(?) ORDER BY id DESC, seq'
        for child, parent, referenced, place in connection.execute(query, (table,)):
            if referenced is None:
                query = "SELECT name FROM pragma_table_info(?) WHERE pk = ?"
                (referenced,) = connection.execute(query, (parent, place + 1)).fetchone() or ("",)
            pair = position.get((table.lower(), child.lower())), position.get((parent.lower(), referenced.lower()))
            if None not in pair:
                foreign.append(pair)
    return Schema(db_id, tuple(tables), tuple(columns), tuple(types), tuple(primary), tuple(foreign))


def _spider_type(declared: str) -> str:
    """Spider's four column types, from a declared SQLite type (https://www.sqlite.org/datatype3.html, section 3.1)."""
    declared = declared.lower()
    if "bool" in declared:
        return "boolean"
    if any(word in declared for word in ("date", "time", "year")):
        return "time"
    if any(word in declared for word in ("int", "real", "floa", "doub", "num", "dec")):
        return "number"
    return "text"


def inspect(directory: str | Path, judge: Callable[[list[Example], dict[str, Schema]], list[str]] = lambda *_: []) -> list[str]:
    """Lines that describe a directory in Spider's layout: examples, databases present, empty and missing, failing gold.

    `judge` says more of a split's examples, given their schemas.
    Raises UserError where the directory does not exist or holds no split.
    """
    root, lines = Path(directory), []
    for split in splits_in(root):
        path, tables, folder = files_of(root, split)
        schemas = read_schemas(tables)
        examples = read_examples([path], schemas)
        paths = {e.db_id: database_file(folder, e.db_id) for e in examples}
        states = {db_id: _state(path) for db_id, path in sorted(paths.items())}
        counts = {state: sum(s == state for s in states.values()) for state in ("present", "empty", "missing", "unreadable")}
        lines.append(f"{split}: {len(examples):,} examples, {len(states)} databases: " + counted(counts))
        for state in ("empty", "missing", "unreadable"):
            if counts[state]:
                lines.append(f"  {state}: {_listed([db_id for db_id, s in states.items() if s == state])}")
        odd = [db_id for db_id, state in states.items() if state == "present" and not _is_utf8(paths[db_id])]
        if odd:
            lines.append(f"  text that is not UTF-8, read with replacement characters: {_listed(odd)}")
        runnable = [example for example in examples if states[example.db_id] in ("present", "empty")]
        with Executor() as executor:
            results = executor.run([(paths[e.db_id], gold_to_run(e.sql)) for e in runnable], progress=True, keep=0)
        failing = [(e, result) for e, result in zip(runnable, results) if result.error]
        lines.append(f"  gold that runs: {len(runnable) - len(failing):,} of {len(runnable):,}")
        lines += [f"  fails: example {e.index} ({e.db_id}): {result.message}" for e, result in failing[:20]]
        if len(failing) > 20:
            lines.append(f"  and {len(failing) - 20:,} more that fail")
        lines += [f"  {line}" for line in judge(examples, schemas)]
    return lines


def counted(counts: dict[str, int]) -> str:
    """`3 present, 1 missing`: the counts that are not 0."""
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _state(path: Path) -> str:
    """Whether a database is present, empty (no rows in any table), missing, or unreadable."""
    try:
        return read_database(readable(path), lambda connection: "present" if _filled(connection) else "empty")
    except FileNotFoundError:
        return "missing"
    except (OSError, sqlite3.Error):
        return "unreadable"


def _tables(connection: sqlite3.Connection) -> list[str]:
    """The tables that store rows in the database file itself."""
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 ORDER BY rowid"
    return [name for (name,) in connection.execute(query)]


def _filled(connection: sqlite3.Connection) -> bool:
    return any(connection.execute(f"SELECT 1 FROM {quoted(name)} LIMIT 1").fetchone() for name in _tables(connection))


def _is_utf8(path: Path) -> bool:
    """Whether all text in a database decodes as UTF-8, as SQLite's text is meant to."""

    def look(connection: sqlite3.Connection) -> bool:
        tables = _tables(connection)
        connection.text_factory = str  # raises an error for text that is not UTF-8
        for table in map(quoted, tables):
            for (name,) in connection.execute(f"SELECT name FROM pragma_table_info({table})").fetchall():
                field = f"{table}.{quoted(name)}"
                for _ in connection.execute(f"SELECT {field} FROM {table} WHERE typeof({field}) = 'text'"):
                    pass  # reading decodes it; blobs may hold anything
        return True

    try:
        return read_database(readable(path), look)
    except (OSError, sqlite3.Error):
        return False


def make(directory: str | Path, guess_foreign_keys: bool = False) -> list[str]:
    """Write `tables.json` from the SQLite files in a directory's `database/`; an earlier one is kept under a number.

    `guess_foreign_keys` adds keys that names and values suggest (`foreign_keys.py`). Returns lines that say what was found in
    each file, and what to do next. Raises UserError where there is no such folder, or no database in it.
    """

    root, entries, lines = Path(directory), [], []
    folder = root / "database"
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: make it, and copy your SQLite files there, as {folder / 'shop.sqlite'}")
    for path, db_id in _databases_in(folder):
        try:
            entry = tables_entry(path, folder_name(db_id))
            schema = parse_schema(entry, path, 0)
        except (UserError, ValueError) as error:
            lines.append(f"left out: {error if isinstance(error, UserError) else f'{path}: {error}: rename it'}")
            continue
        keys = guess(path, schema) if guess_foreign_keys else []
        entry["foreign_keys"] += map(list, keys)
        entries.append(entry)
        counts = dict(tables=len(schema.tables), columns=len(schema.columns) - 1)
        counts |= {"foreign keys declared": len(schema.foreign_keys), "guessed": len(keys)}
        lines.append(f"{db_id}: {counted(counts)}")
        named = [[f"{schema.tables[table]}.{name}" for table, name in map(schema.columns.__getitem__, pair)] for pair in keys]
        lines += [f"  guessed: {child} = {parent}" for child, parent in named]
    if not entries:
        remedy = f"copy your SQLite files there, as {folder / 'shop.sqlite'}"
        raise UserError(f"{folder} holds no database with a table ({'; '.join(lines) or 'no SQLite file'}): {remedy}")
    path, text = root / "tables.json", json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
    if path.exists() and path.read_bytes() != text.encode():
        lines.append(f"the earlier {path} now stands in {move_aside(path)}")
    write_atomically(path, text)
    lines.append(f"{path} holds {len(entries):,} database{'s' if len(entries) > 1 else ''}")
    where = f"{root / 'train.csv'} and {root / 'dev.csv'}, with the columns db_id, question and query (or .json, .jsonl)"
    written = all(any(root.glob(f"{split}*.*")) for split in ("train", "dev"))
    return [*lines, "next: " + f"write questions into {where}; then: " * (not written) + f"python3 -m data.spider {root}"]


def _databases_in(folder: Path) -> list[tuple[Path, str]]:
    """The SQLite files of a folder in either layout, with their db_ids. Raises UserError where two have the same db_id."""
    found: dict[str, Path] = {}
    for place in sorted(folder.iterdir()):
        if place.is_dir():
            db_id, path = place.name, database_file(folder, place.name)
            if path.parent == folder:  # it holds no database of its name
                continue
        elif place.suffix in SUFFIXES:
            db_id, path = place.stem, place
        else:
            continue
        if db_id in found:
            raise UserError(f"{found[db_id]} and {path} are both called {db_id}: rename one of them")
        found[db_id] = path
    return [(path, db_id) for db_id, path in found.items()]


def main(judge: Callable[[list[Example], dict[str, Schema]], list[str]]) -> None:
    """The command; `judge` as for `inspect`."""
    parser = command_parser("spider", __doc__)
    parser.add_argument("directory", nargs="*", metavar="DIR", help="a directory in Spider's layout, or to be")
    parser.add_argument("--make", action="store_true", help="write DIR/tables.json from the SQLite files in DIR/database/")
    parser.add_argument("--guess_foreign_keys", action="store_true", help="with --make: also keys that are not declared")
    args = parser.parse_args()
    if len(args.directory) != 1:
        raise UserError("name one directory: python3 -m data.spider DIR")
    (directory,) = args.directory
    if args.guess_foreign_keys and not args.make:
        raise UserError("--guess_foreign_keys goes into tables.json: give --make, too")
    lines = make(directory, args.guess_foreign_keys) if args.make else inspect(directory, judge)
    print("\n".join(map(printable, lines)))
