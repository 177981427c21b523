"""The embedded sample: a small benchmark in Spider's layout, made from the ten databases of `data/sample/database/`.

    python3 -m data.sample [DIR]      builds it, in data/sample/ unless told, and says what it holds

Each database is a `schema.sql` (tables, keys and rows) and a `lexicon.toml` (the English for its tables and columns).
The templates of `sample_questions.py` pair SQL with questions, in several wordings each; a pair stays only if its
answer tells the SQL apart from near misses. The same source gives the same JSON files, byte for byte. To add a
database, add a folder with the two files.
"""

import hashlib
import json
import os
import random
import re
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from data.benchmark.exact_match import SqlSchema, hardness
from data.benchmark.sample_questions import TEMPLATES, Say, Unfit, Writer, read_lexicon
from data.benchmark.spider import load, tables_entry
from data.common.commands import command_parser
from data.common.errors import UserError

TRAIN_EXAMPLES = 16000  # a small random model has to see most phrases with most columns
DEV_EXAMPLES = 300
SEED = 20230701
MAX_SQL_CHARACTERS = 240
SCALE = 3  # the different SQL texts of a template for a database are its share times this
DRAWS = 8  # times that a template is tried for each SQL text wanted
SOURCE = Path(__file__).resolve().parents[1] / "sample"
STAMP = ".stamp"

# ---------------------------------------------------------------------------------------------------------------------
# checks: what makes an example worth having

CONDITION = re.compile(r"(?:T\d\.)?\w+ (?:BETWEEN \d+ AND \d+|(?:<=|>=|!=|=|<|>|LIKE) (?:'(?:[^']|'')*'|\d+))")
NESTED = re.compile(r"\w+ [<>] \(SELECT \w+\(\w+\) [^()]*\)")
NEIGHBOURS = (("<= ", "< "), (">= ", "> "), (" < ", " <= "), (" > ", " >= "), ("BETWEEN", "NOT BETWEEN"))
ORDER = re.compile(r"^SELECT (?:DISTINCT )?.*? (FROM .*) ORDER BY (\S+) (ASC|DESC)(?: LIMIT (\d+))?$")


def near_misses(sql: str) -> Iterator[str]:
    """Variants of `sql` that differ in one comparison or clause, and must not give the same answer."""
    if "INTERSECT" in sql:
        yield sql.replace("INTERSECT", "UNION")
        return
    for match in [*CONDITION.finditer(sql), *NESTED.finditer(sql)]:
        for constant in ("1", "0"):
            yield sql[: match.start()] + constant + sql[match.end() :]
    for one, other in NEIGHBOURS:
        if one in sql and "HAVING avg" not in sql and "(SELECT" not in sql:
            yield sql.replace(one, other)
    if "HAVING" in sql:
        yield sql.split(" HAVING ")[0]
    if "ORDER BY" in sql:
        yield sql.replace(" ASC", " DESC") if " ASC" in sql else sql.replace(" DESC", " ASC")


def answer(connection: sqlite3.Connection, sql: str) -> list[tuple]:
    """The rows, in a comparable form: floats rounded, sorted unless the SQL asks for an order."""
    rows = [tuple(round(cell, 6) if isinstance(cell, float) else cell for cell in row) for row in connection.execute(sql)]
    return rows if "ORDER BY" in sql else sorted(rows, key=repr)


def worth_asking(connection: sqlite3.Connection, sql: str) -> bool:
    """Whether the answer has content, does not depend on ties, and differs from the answers of near misses."""
    if len(sql) > MAX_SQL_CHARACTERS:
        return False
    rows = answer(connection, sql)
    if not any(cell for row in rows for cell in row):
        return False
    if order := ORDER.match(sql):
        # with equal keys, SQLite would choose the order, or the last row
        tables, key, way, limit = order.groups()
        keys = connection.execute(f"SELECT {key} {tables} ORDER BY {key} {way}").fetchall()
        keys = keys if limit is None else keys[: int(limit) + 1]
        if len(set(keys)) < len(keys) or len(keys) < 2 or (limit is not None and len(keys) <= int(limit)):
            return False
    return all(answer(connection, other) != rows for other in near_misses(sql))


# ---------------------------------------------------------------------------------------------------------------------
# the examples


@dataclass(frozen=True)
class Item:
    """One SQL that was drawn, and the function that words questions for it."""

    db_id: str
    template: str
    sql: str
    say: Say


def draw_items(db_id: str, connection: sqlite3.Connection, rng: random.Random) -> list[Item]:
    """For each template, the number of different SQLs that its share asks for, or all that were found."""
    writer = Writer(read_lexicon(SOURCE / "database" / db_id / "lexicon.toml", connection), connection, rng)
    items, seen = [], set()
    for each in TEMPLATES:
        found = []
        wanted = each.share * SCALE
        for _ in range(wanted * DRAWS):
            if len(found) == wanted:
                break
            try:
                sql, say = each.draw(writer)
            except Unfit:
                continue
            if sql not in seen:
                seen.add(sql)
                if worth_asking(connection, sql):
                    found.append(Item(db_id, each.name, sql, say))
        items += found
    return items


def sql_words(sql: str) -> set[str]:
    """The literals, names and operators of an SQL text."""
    return set(re.findall(r"'(?:[^']|'')*'|\w+|[<>=!]+", sql))


def question_words(question: str) -> set[str]:
    return set(re.findall(r"\w+", question.casefold()))


def fold(text: str) -> str:
    """Text without differences in case and white space, for comparison."""
    return " ".join(text.casefold().split())


def hold_out(items: list[Item], count: int, rng: random.Random) -> list[Item]:
    """Up to `count` items for dev, spread over the databases; train still has each of their words and templates."""
    words = Counter((item.db_id, word) for item in items for word in sql_words(item.sql))
    left = Counter((item.db_id, item.template) for item in items)
    queues: dict[str, list[Item]] = {}
    for item in rng.sample(items, len(items)):
        queues.setdefault(item.db_id, []).append(item)
    held: list[Item] = []
    while len(held) < count and any(queues.values()):
        for db_id in sorted(queues):
            while queues[db_id]:
                item = queues[db_id].pop()
                mine = [(db_id, word) for word in sql_words(item.sql)]
                if left[db_id, item.template] > 2 and all(words[key] > 2 for key in mine):
                    words.subtract(mine)
                    left[db_id, item.template] -= 1
                    held.append(item)
                    break
    return held[:count]


def generate(connections: dict[str, sqlite3.Connection]) -> dict[str, list[dict]]:
    """The examples by split. No question and no SQL of dev is in train, but each of their words is."""
    rng = random.Random(SEED)
    items = [item for db_id in sorted(connections) for item in draw_items(db_id, connections[db_id], rng)]
    held = hold_out(items, DEV_EXAMPLES * 6 // 5, rng)
    held_sql = {item.sql for item in held}
    kept = [item for item in items if item.sql not in held_sql]
    asked: set[str] = set()

    def word(item: Item) -> dict | None:
        """An example with a new question, None if several tries give none."""
        for _ in range(8):
            question = item.say()
            question = question[0].upper() + question[1:]
            if fold(question) not in asked:
                asked.add(fold(question))
                return {"db_id": item.db_id, "question": question, "query": item.sql}
        return None

    train: list[dict] = []
    while len(train) < TRAIN_EXAMPLES:  # a question for every SQL, then further wordings, until train is full
        round_ = [example for item in rng.sample(kept, len(kept)) if (example := word(item))]
        if not round_:
            raise ValueError(f"the templates give {len(train)} questions, not {TRAIN_EXAMPLES}: add shares or words")
        train += round_
    train = train[:TRAIN_EXAMPLES]
    known = set().union(*(question_words(example["question"]) for example in train))
    dev = [example for item in held if (example := word(item)) and question_words(example["question"]) <= known]
    if len(dev) < DEV_EXAMPLES:
        raise ValueError(f"the templates give {len(dev)} dev questions, not {DEV_EXAMPLES}: add shares")
    dev = dev[:DEV_EXAMPLES]
    rng.shuffle(train)
    rng.shuffle(dev)
    return {"train": train, "dev": dev}


# ---------------------------------------------------------------------------------------------------------------------
# building


def db_ids() -> list[str]:
    return sorted(path.parent.name for path in (SOURCE / "database").glob("*/schema.sql"))


def sqlite_file(db_id: str) -> Path:
    return Path("database") / db_id / f"{db_id}.sqlite"


def digest() -> str:
    """A digest of all source files of the built files."""
    paths = [SOURCE.parent / "benchmark" / name for name in ("sample.py", "sample_questions.py", "spider.py")]
    paths += [SOURCE / "database" / db_id / name for db_id in db_ids() for name in ("schema.sql", "lexicon.toml")]
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path.relative_to(SOURCE.parent)}\n".encode() + path.read_bytes())
    return total.hexdigest()


def is_built(directory: Path, stamp: str) -> bool:
    """Whether `directory` holds every file, built from sources with the digest `stamp`."""
    files = ["train_spider.json", "dev.json", "tables.json", *map(sqlite_file, db_ids())]
    try:
        found = (directory / STAMP).read_text(encoding="utf-8")
    except OSError:
        return False
    return found == stamp and all((directory / file).is_file() for file in files)


def directory_of(data: str) -> Path:
    """The directory that --data names; `sample` stands for the sample's."""
    return build() if data == "sample" else Path(data)


def build(directory: str | Path | None = None) -> Path:
    """The directory with the sample, in Spider's layout; built first where it is missing or its source has changed.

    The default is data/sample/, or, where that cannot be written, a folder in the user's cache directory.
    Several processes may call this at once. Raises UserError where nothing can be written.
    """
    stamp = digest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "text-to-sql-sample" / stamp[:16]
    for place in [SOURCE, cache] if directory is None else [Path(directory)]:
        if is_built(place, stamp):
            return place
        try:
            write(place, stamp)
            return place
        except OSError as error:
            remedy = "set XDG_CACHE_HOME to a writable directory" if directory is None else "name a writable directory"
            fault = f"the sample cannot be written to {place} ({error.strerror or error}): {remedy}"
    raise UserError(fault)


def write(directory: Path, stamp: str) -> None:
    """Build in a temporary folder, then move the files into place, the stamp last, so that nobody reads half a sample."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=directory) as name, ExitStack() as stack:
        folder = Path(name)
        connections: dict[str, sqlite3.Connection] = {}
        tables = []
        for db_id in db_ids():
            path = folder / sqlite_file(db_id)
            path.parent.mkdir(parents=True)
            connections[db_id] = stack.enter_context(closing(sqlite3.connect(path)))
            schema = (SOURCE / "database" / db_id / "schema.sql").read_text(encoding="utf-8")
            connections[db_id].executescript(f"BEGIN;\n{schema}\nCOMMIT;")
            tables.append(tables_entry(path, db_id))
        splits = generate(connections)
        contents = {"train_spider.json": splits["train"], "dev.json": splits["dev"], "tables.json": tables}
        for file, content in contents.items():
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            (folder / file).write_text(text, encoding="utf-8", newline="\n")
        (folder / STAMP).write_text(stamp, encoding="utf-8")
        stack.close()
        for file in [*map(sqlite_file, connections), *contents, STAMP]:
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder / file, directory / file)


KINDS = (  # the first that matches counts
    ("set operation", r" (INTERSECT|UNION|EXCEPT) "),
    ("nested", r"\(SELECT "),
    ("three tables", r" AS T3 "),
    ("join with group or order", r" JOIN .* (GROUP|ORDER) BY "),
    ("join", r" JOIN "),
    ("group with having", r" HAVING "),
    ("group", r" GROUP BY "),
    ("order", r" ORDER BY "),
    ("where with and, or", r" WHERE (?!\w+ BETWEEN \d+ AND \d+$).* (AND|OR) "),
    ("where", r" WHERE "),
    ("select", r""),
)


def kind(sql: str) -> str:
    """The clause by which to count an SQL text."""
    return next(name for name, pattern in KINDS if re.search(pattern, sql))


def main() -> None:
    """Build, and print how many examples each split holds, by hardness, clause and database."""
    parser = command_parser("sample", __doc__)
    parser.add_argument("directory", nargs="?", type=Path, metavar="DIR", help="a new directory; else data/sample")
    given = parser.parse_args().directory
    own = given is None or given.resolve() == SOURCE.resolve() or (given / STAMP).exists()
    if not own and given.is_dir() and any(given.iterdir()):
        raise UserError(f"{given} holds other files than the sample's: name a new directory")
    directory = build(given)
    benchmark = load(directory)
    schemas = {db_id: SqlSchema(schema) for db_id, schema in benchmark.schemas.items()}
    print(directory)
    print(f"\n{'':28}{'train':>8}{'dev':>8}")
    for key in (
        lambda example: "examples",
        lambda example: hardness(schemas[example.db_id], example.sql),
        lambda example: kind(example.sql),
        lambda example: example.db_id,
    ):
        counts = {split: Counter(map(key, examples)) for split, examples in benchmark.splits.items()}
        for name, count in counts["train"].most_common():
            print(f"{name:28}{count:8,}{counts['dev'][name]:8,}")
        print()
