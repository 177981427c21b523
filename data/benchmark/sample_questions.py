"""The parts of the sample's questions: the words for each database, and the templates that pair SQL with questions.

A template is a function that draws one SQL text for a database and returns a function that words a question for it,
differently at each call. `sample.py` calls them; `lexicon.toml` beside each `schema.sql` holds the words. It has, for
each table, whose name stands in square brackets:

    nouns     pairs of singular and plural, the usual one first
    person    true where the rows are people ("who" instead of "that")
    parents   for each table that a foreign key leads to, the words that join the two: "made by {}"
    columns   each column but the keys, with those of these that apply: name = true (a text column that names the rows;
              a column `name` always does), phrases (else its name), where ("in {}", for a category), verb ("built",
              for a year), unit, more, less, most, least (adjectives), additive = true (its sum makes sense)

and `[[path]]`: three tables that foreign keys join in that order, and the words that lead from the first to the last.
"""

import random
import re
import sqlite3
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


class Unfit(Exception):
    """Draw again: the database lacks what the template needs, or the draw contradicts itself."""


# ---------------------------------------------------------------------------------------------------------------------
# the lexicon: a database and the words for it


@dataclass(frozen=True)
class Column:
    """A column that is not a key. `values` are its different values, sorted; `kind` is name, category, measure or year."""

    name: str
    kind: str
    phrases: tuple[str, ...]
    values: tuple
    where: tuple[str, ...] = ()
    verb: str = ""
    unit: str = ""
    more: str = ""
    less: str = ""
    most: str = ""
    least: str = ""
    additive: bool = False

    @property
    def counted(self) -> str:
        """What a number counts: seats, for the number of seats."""
        return self.phrases[0].removeprefix("number of ") if self.phrases[0].startswith("number of ") else ""

    def thresholds(self) -> list[int]:
        """Up to three numbers to compare with, spread over the inner values, so that there are rows on both sides."""
        inner = self.values[1:-1]
        return sorted({inner[(2 * i + 1) * len(inner) // 6] for i in range(3)})

    @property
    def asked(self) -> tuple:
        """Up to three of its texts, spread over all; so few, as a small model has to see each often."""
        return self.values[:: -(-len(self.values) // 3)]


@dataclass(frozen=True)
class Table:
    """A table with its columns except keys, and the words for its rows."""

    name: str
    key: str
    nouns: tuple[tuple[str, str], ...]
    person: bool
    columns: tuple[Column, ...]

    @property
    def label(self) -> Column | None:
        """The column that names the rows; None for events and the like."""
        return next((column for column in self.columns if column.kind == "name"), None)

    @property
    def who(self) -> str:
        return "who" if self.person else "that"

    def of_kind(self, *kinds: str) -> list[Column]:
        return [column for column in self.columns if column.kind in kinds]


@dataclass(frozen=True)
class Relation:
    """A foreign key `child.column` to `parent`, and the words that lead from children to their parents."""

    child: Table
    parent: Table
    column: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Chain:
    """Three tables, the two relations that join them, and the words that lead from the first to the last."""

    tables: tuple[Table, Table, Table]
    relations: tuple[Relation, Relation]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """One database, with the words for it."""

    tables: dict[str, Table]
    relations: tuple[Relation, ...]
    chains: tuple[Chain, ...]


def read_lexicon(path: Path, connection: sqlite3.Connection) -> Lexicon:
    """The lexicon at `path`, with keys, types and values from its database; KeyError where the two disagree."""
    words = tomllib.loads(path.read_text(encoding="utf-8"))
    paths = words.pop("path", [])
    tables: dict[str, Table] = {}
    foreign: dict[tuple[str, str], str] = {}  # (child, parent) -> column
    for name, entry in words.items():
        info = {row[1]: row for row in connection.execute(f"PRAGMA table_info({name})")}
        foreign |= {(name, row[2]): row[3] for row in connection.execute(f"PRAGMA foreign_key_list({name})")}
        columns = []
        for column, its in entry["columns"].items():
            query = f"SELECT DISTINCT {column} FROM {name} ORDER BY {column}"
            values = tuple(value for (value,) in connection.execute(query))
            text = "name" if its.pop("name", column == "name") else "category"
            kind = text if info[column][2] == "TEXT" else "year" if "verb" in its else "measure"
            its = {"phrases": (column.replace("_", " "),)} | its
            its = {key: tuple(value) if isinstance(value, list) else value for key, value in its.items()}
            columns.append(Column(name=column, kind=kind, values=values, **its))
        key = next(column for column, row in info.items() if row[5])
        nouns = tuple((singular, plural) for singular, plural in entry["nouns"])
        tables[name] = Table(name, key, nouns, entry.get("person", False), tuple(columns))
    relations = {
        frozenset((child, parent)): Relation(tables[child], tables[parent], foreign[child, parent], tuple(phrases))
        for child, entry in words.items()
        for parent, phrases in entry.get("parents", {}).items()
    }
    chains = []
    for path_ in paths:
        a, b, c = path_["tables"]
        joined = relations[frozenset((a, b))], relations[frozenset((b, c))]
        chains.append(Chain((tables[a], tables[b], tables[c]), joined, tuple(path_["words"])))
    return Lexicon(tables, tuple(relations.values()), tuple(chains))


# ---------------------------------------------------------------------------------------------------------------------
# words


@dataclass(frozen=True)
class Condition:
    """`column op value` of a WHERE clause; BETWEEN has two values, and LIKE's value has its % signs."""

    column: Column
    op: str
    value: str | int | tuple[int, int]

    def sql(self, alias: str = "") -> str:
        left = f"{alias}.{self.column.name}" if alias else self.column.name
        if self.op == "BETWEEN":
            return f"{left} BETWEEN {self.value[0]} AND {self.value[1]}"
        return f"{left} {self.op} {literal(self.value)}"

    @property
    def numbers(self) -> tuple[int, ...]:
        return self.value if self.op == "BETWEEN" else (self.value,)


def literal(value: str | int) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


# words for a comparison with a number: after "whose age is", after "with an age", after "with", before what is counted
BEING = {
    "=": ["exactly {}", "{}", "equal to {}"],
    "!=": ["not {}", "not equal to {}", "different from {}"],
    "<": ["less than {}", "below {}", "under {}", "smaller than {}"],
    ">": ["greater than {}", "above {}", "over {}", "more than {}"],
    "<=": ["at most {}", "no more than {}", "less than or equal to {}", "{} or less"],
    ">=": ["at least {}", "no less than {}", "greater than or equal to {}", "{} or more"],
    "BETWEEN": ["between {} and {}", "in the range from {} to {}"],
}
HAVING = {
    "=": ["of {}", "of exactly {}", "equal to {}"],
    "!=": ["other than {}", "different from {}"],
    "<": ["below {}", "of less than {}", "under {}", "smaller than {}"],
    ">": ["above {}", "of more than {}", "over {}", "greater than {}"],
    "<=": ["of at most {}", "of no more than {}", "of {} or less"],
    ">=": ["of at least {}", "of no less than {}", "of {} or more"],
    "BETWEEN": ["between {} and {}", "from {} to {}"],
}
COUNTING = {
    "=": ["exactly {}", "{}"],
    "!=": [],
    "<": ["fewer than {}", "less than {}"],
    ">": ["more than {}", "over {}"],
    "<=": ["at most {}", "no more than {}", "up to {}"],
    ">=": ["at least {}", "no fewer than {}"],
    "BETWEEN": ["between {} and {}", "from {} to {}"],
}
# the same for a year, after a verb such as "built"; and after "whose year of construction is"
IN_YEAR = {
    "=": ["in {}"],
    "!=": ["in a year other than {}"],
    "<": ["before {}", "earlier than {}"],
    ">": ["after {}", "later than {}"],
    "<=": ["in {} or earlier", "no later than {}"],
    ">=": ["in {} or later", "no earlier than {}"],
    "BETWEEN": ["between {} and {}", "from {} to {}"],
}
YEAR_BEING = {
    "=": ["{}"],
    "!=": ["not {}"],
    "<": ["before {}", "earlier than {}"],
    ">": ["after {}", "later than {}"],
    "<=": ["{} or earlier"],
    ">=": ["{} or later"],
    "BETWEEN": ["between {} and {}"],
}
SINGULAR = {"have": "has", "do": "does", "lead": "leads", "look": "looks", "take": "takes", "start": "starts"}


def plural(phrase: str) -> str:
    """The plural of a noun phrase: number of cows -> numbers of cows."""
    head, *rest = re.split(r"(?= (?:of|in) )", phrase, maxsplit=1)
    if head.endswith("y") and head[-2] not in "aeiou":
        head = head[:-1] + "ie"
    return "".join([head, "es" if head.endswith(("s", "x", "ch")) else "s", *rest])


def article(phrase: str) -> str:
    """The phrase with its indefinite article."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def series(items: list[str]) -> str:
    """a; a and b."""
    return " and ".join(items)


def singular(modifier: str) -> str:
    """A modifier of a plural noun, changed to fit the singular: who have a hive -> who has a hive."""
    return re.sub(r"^(who|that) (\w+)", lambda found: f"{found[1]} {SINGULAR.get(found[2], found[2])}", modifier)


def patterns(column: Column, person: bool) -> list[str]:
    """LIKE patterns for a column of names: first letters, last letters and, except for people, whole words."""

    def common(items: Sequence[str], count: int) -> list[str]:
        counts = Counter(items)
        return sorted(counts, key=lambda item: (-counts[item], item))[:count]

    words = [word for value in column.values for word in value.split() if " " in value and len(word) > 2]
    found = [f"{letter}%" for letter in common([value[0] for value in column.values], 2)]
    found += [f"%{letter}" for letter in common([value[-1] for value in column.values], 2)]
    return found + ([] if person else [f"%{word}%" for word in common(words, 2)])


class Writer:
    """Draws tables, columns and conditions of one database, and the words for them."""

    def __init__(self, lexicon: Lexicon, connection: sqlite3.Connection, rng: random.Random) -> None:
        self.lexicon = lexicon
        self.connection = connection
        self.rng = rng

    def even(self, options: Sequence):
        """One of `options`, all equally likely. Raises Unfit if there are none."""
        if not options:
            raise Unfit
        return options[int(self.rng.random() * len(options))]

    def pick(self, *options):
        """One of `options`, the first somewhat more likely."""
        return options[int(self.rng.random() ** 2 * len(options))]

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    # what to ask about

    def table(self, named: bool = False) -> Table:
        return self.even([table for table in self.lexicon.tables.values() if table.label or not named])

    def relation(self, named_child: bool = False) -> Relation:
        return self.even([r for r in self.lexicon.relations if r.parent.label and (r.child.label or not named_child)])

    def category(self, table: Table) -> Column:
        return self.even(table.of_kind("category"))

    def measure(self, table: Table, years: bool = False) -> Column:
        return self.even(table.of_kind("measure", "year") if years else table.of_kind("measure"))

    def condition(self, table: Table, ops: str = "= = = < < > > <= >= != BETWEEN LIKE", but: Sequence = ()) -> Condition:
        """A condition on a column of `table` not among `but`, with an operator drawn from `ops`."""
        op = self.even(ops.split())
        if op == "LIKE":
            column = self.even(table.of_kind("name"))
            value = self.even(patterns(column, table.person))
        elif op in ("=", "!="):
            texts = table.of_kind("category") + (table.of_kind("name") if op == "!=" else [])
            column = self.even(texts) if texts and self.chance(0.7) else self.measure(table, years=True)
            value = self.even(column.asked if column.kind in ("name", "category") else column.thresholds())
        else:
            column = self.measure(table, years=True)
            value = self.even(column.thresholds())
            if op == "BETWEEN":
                value = tuple(sorted((value, self.even(column.thresholds()))))
                if value[0] == value[1]:
                    raise Unfit
        if column in but:
            raise Unfit
        return Condition(column, op, value)

    def conditions(self, table: Table) -> list[Condition]:
        """Two conditions on different columns, in the table's order, so that no SQL recurs with its parts swapped."""
        first = self.condition(table)
        return sorted([first, self.condition(table, but=[first.column])], key=lambda c: table.columns.index(c.column))

    def apart(self, column: Column) -> list[Condition]:
        """Two conditions on one measure that no single value meets."""
        values = column.thresholds()
        if len(values) < 2:
            raise Unfit
        low, high = sorted(self.rng.sample(values, 2))
        return [Condition(column, self.even(["<", "<="]), low), Condition(column, self.even([">", ">="]), high)]

    def function(self, column: Column) -> str:
        """An aggregate function that makes sense for `column`."""
        if column.kind == "year":
            return self.even(["max", "min"])
        return self.even(["avg", "avg", "max", "min", *(["sum", "sum"] if column.additive else [])])

    # words for what was drawn

    def nouns(self, table: Table) -> tuple[str, str]:
        """Singular and plural."""
        return table.nouns[0] if self.chance(0.65) else self.even(table.nouns)

    def many(self, table: Table, modifier: str = "") -> str:
        return f"{self.nouns(table)[1]} {modifier}".rstrip()

    def phrase(self, column: Column, many: bool = False) -> str:
        phrase = column.phrases[0] if self.chance(0.65) else self.even(column.phrases)
        return plural(phrase) if many else phrase

    def which(self, condition: Condition, whose: bool = False) -> str:
        """The condition as words that follow a noun; `whose` asks for the form with that word."""
        column, op, value = condition.column, condition.op, condition.value
        phrase = self.phrase(column)
        other: list[str] = []
        if op == "LIKE":
            text = value.strip("%")
            if not value.endswith("%"):
                being = [f"whose {phrase} ends with {text}", f"whose {phrase} ends in the letter {text}"]
            elif not value.startswith("%"):
                being = [f"whose {phrase} starts with {text}", f"whose {phrase} begins with the letter {text}"]
            else:
                being = [f"whose {phrase} contains {text}", f"whose {phrase} includes {text}"]
                other = [f"with {text} in the {phrase}"]
        elif column.kind == "name":
            being = [f"whose {phrase} is not {value}"]
            other = [f"not called {value}", f"with {article(phrase)} other than {value}"]
        elif column.kind == "category" and op == "=":
            being = [f"whose {phrase} is {value}"]
            other = [form.format(value) for form in column.where]
        elif column.kind == "category":
            being = [f"whose {phrase} is not {value}"]
            other = ["not " + form.format(value) for form in column.where if not form.startswith("with ")]
            other.append(f"with {article(phrase)} other than {value}")
        elif column.kind == "year":
            being = [f"whose {phrase} is {form.format(*condition.numbers)}" for form in YEAR_BEING[op]]
            other = [f"{column.verb} {form.format(*condition.numbers)}" for form in IN_YEAR[op]]
        else:
            numbers = [str(number) for number in condition.numbers]
            if column.unit and column.unit not in phrase and "1" not in numbers and self.chance(0.4):
                numbers[-1] += f" {column.unit}"
            being = [f"whose {phrase} is {form.format(*numbers)}" for form in BEING[op]]
            if column.counted and "1" not in numbers:
                other = [f"with {form.format(*numbers)} {column.counted}" for form in COUNTING[op]]
            elif (adjective := {"<": column.less, ">": column.more}.get(op)) and self.chance(0.6):
                other = [f"{adjective} {numbers[0]}"]
            elif not column.counted:
                other = [f"with {article(phrase)} {form.format(*numbers)}" for form in HAVING[op]]
        return self.pick(*(other if other and not whose and self.chance(0.65) else being))

    def both(self, conditions: list[Condition]) -> str:
        """Two conditions that hold together, as words that follow a noun."""
        first = self.which(conditions[0])
        second = self.which(conditions[1], whose=first.startswith("whose "))
        return f"{first}{' ' if second.startswith('with ') and not first.startswith('with ') else ' and '}{second}"

    def show(self, what: str, verb: str = "is") -> str:
        """A request for `what`; `verb` agrees with it."""
        return self.pick(
            f"List {what}.",
            f"Show {what}.",
            f"What {verb} {what}?",
            f"Find {what}.",
            f"Give {what}.",
            f"Return {what}.",
            f"Please show me {what}.",
            f"Can you list {what}?",
            f"I want to know {what}.",
            f"Tell me {what}.",
        )

    def each(self, table: Table, columns: list[Column], modifier: str = "", many: bool = True) -> str:
        """The columns of the rows that `modifier` describes: the names and ages of the keepers older than 50."""
        one, several = self.nouns(table)
        phrases = series([self.phrase(column, many) for column in columns])
        if not many:
            return f"the {phrases} of {self.pick('each', 'every')} {one} {singular(modifier)}".rstrip()
        rows = self.pick(several, f"the {several}", f"all {several}") if modifier else f"all {several}"
        return f"the {phrases} of {rows} {modifier}".rstrip()

    def show_each(self, table: Table, columns: list[Column], modifier: str = "", end: str = "") -> str:
        """A request for the columns of the rows that `modifier` describes; `end`, such as an order, follows."""
        many = self.chance(0.5)
        return self.show(self.each(table, columns, modifier, many) + end, "are" if many or len(columns) > 1 else "is")

    def names(self, table: Table, modifier: str) -> str:
        """A question for the names of the rows that `modifier` describes."""
        if self.chance(0.7):
            return self.show_each(table, [table.label], modifier)
        rows, label = self.many(table, modifier), self.phrase(table.label, many=True)
        return self.pick(
            f"{'Who' if table.person else 'Which'} are the {rows}? Give their {label}.",
            f"For all {rows}, show the {label}.",
        )

    def how_many(self, table: Table, modifier: str = "") -> str:
        rows = self.many(table, modifier)
        return self.pick(
            f"How many {rows} are there?",
            f"Count the {rows}.",
            f"What is the number of {rows}?",
            f"Find the number of {rows}.",
            f"Show how many {rows} there are.",
        )

    def extreme(self, table: Table, column: Column, down: bool, modifier: str = "", count: int = 1) -> str:
        """The first of the rows, or the first `count`, in descending or ascending order: the two oldest keepers."""
        noun = self.nouns(table)[count > 1] + (f" {modifier}" if modifier else "")
        number = ["", "", "two ", "three ", "four ", "five "][count]
        own = column.most if down else column.least
        if own and self.chance(0.5):
            return f"the {number}{own} {noun}"
        if column.counted and self.chance(0.6):
            end = f"the {'most' if down else 'fewest'} {column.counted}"
        else:
            ends = ("latest", "most recent") if down else ("earliest",)
            if column.kind != "year":
                ends = ("highest", "largest", "greatest") if down else ("lowest", "smallest")
            end = f"the {self.pick(*ends)} {self.phrase(column, many=count > 1)}"
        return f"the {number}{noun} {'and ' if 'with ' in modifier else ''}with {end}"

    def in_order(self, column: Column, down: bool) -> str:
        phrase, way = self.phrase(column), "descending" if down else "ascending"
        ends = ("earliest", "latest") if column.kind == "year" else ("lowest", "highest")
        low, high = ends[::-1] if down else ends
        forms = [
            f"in {way} order of {phrase}",
            f"sorted by {phrase} in {way} order",
            f"ordered by {phrase}, {way}",
            f"from the {low} to the {high} {phrase}",
        ]
        if column.most and column.least:
            adjectives = (column.most, column.least) if down else (column.least, column.most)
            forms.append(f"from the {adjectives[0]} to the {adjectives[1]}")
        return self.pick(*forms)

    def aggregate(self, column: Column, function: str) -> str:
        """Words for an aggregate: average age."""
        words = {"avg": ["average", "mean"], "sum": ["total", "combined"]}
        words["max"] = ["latest", "maximum"] if column.kind == "year" else ["maximum", "highest", "largest"]
        words["min"] = ["earliest", "minimum"] if column.kind == "year" else ["minimum", "lowest", "smallest"]
        return f"{self.pick(*words[function])} {self.phrase(column)}"

    def upward(self, relation: Relation, condition: Condition) -> str:
        """Words from children to their parents: working at lighthouses painted red."""
        return self.pick(*relation.words).format(self.many(relation.parent, self.which(condition)))

    def downward(self, relation: Relation, condition: Condition) -> str:
        """Words from parents to their children: with at least one keeper older than 50."""
        one, who = self.nouns(relation.child)[0], relation.parent.who
        have = self.pick(f"{who} have at least one {one}", f"with at least one {one}", f"{who} have {article(one)}")
        return f"{have} {self.which(condition)}"

    def without(self, relation: Relation) -> str:
        """Words for parents that have no children."""
        (one, many), who = self.nouns(relation.child), relation.parent.who
        return self.pick(f"without any {many}", f"{who} have no {many}", f"{who} do not have any {one}")

    def most(self, relation: Relation) -> str:
        """Words for the parent with the most children."""
        many, who = self.nouns(relation.child)[1], relation.parent.who
        return self.pick(f"with the most {many}", f"with the largest number of {many}", f"{who} has the most {many}")


# ---------------------------------------------------------------------------------------------------------------------
# templates

Say = Callable[[], str]
Draft = tuple[str, Say]


@dataclass(frozen=True)
class Template:
    """A pattern of SQL; `share` is how many different SQL texts are wanted of it in each database."""

    draw: Callable[[Writer], Draft]
    share: int

    @property
    def name(self) -> str:
        return self.draw.__name__


TEMPLATES: list[Template] = []


def template(share: int) -> Callable[[Callable[[Writer], Draft]], Callable[[Writer], Draft]]:
    """Register a template."""

    def register(draw: Callable[[Writer], Draft]) -> Callable[[Writer], Draft]:
        TEMPLATES.append(Template(draw, share))
        return draw

    return register


def way(down: bool) -> str:
    return "DESC" if down else "ASC"


def from_joined(tables: Sequence[Table], relations: Sequence[Relation]) -> str:
    """The FROM clause that joins `tables`, each to the next by its relation, as T1, T2 and so on."""
    sql = f"FROM {tables[0].name} AS T1"
    for i, relation in enumerate(relations):
        left, right = relation.column, relation.parent.key
        if relation.parent is tables[i]:
            left, right = right, left
        sql += f" JOIN {tables[i + 1].name} AS T{i + 2} ON T{i + 1}.{left} = T{i + 2}.{right}"
    return sql


def from_child(relation: Relation) -> str:
    return from_joined((relation.child, relation.parent), (relation,))


def from_parent(relation: Relation) -> str:
    return from_joined((relation.parent, relation.child), (relation,))


# one table: columns, rows, values


@template(6)
def columns(w: Writer) -> Draft:
    table = w.table()
    chosen = {w.even(table.columns), w.even(table.columns)}
    chosen = sorted(chosen, key=table.columns.index)
    names = ", ".join(column.name for column in chosen)
    return f"SELECT {names} FROM {table.name}", lambda: w.show_each(table, chosen)


@template(5)
def count_rows(w: Writer) -> Draft:
    table = w.table()
    return f"SELECT count(*) FROM {table.name}", lambda: w.how_many(table)


@template(14)
def look_up(w: Writer) -> Draft:
    table = w.table(named=True)
    column = w.even(table.of_kind("category", "measure", "year"))
    name = w.even(table.label.asked)
    sql = f"SELECT {column.name} FROM {table.name} WHERE {table.label.name} = {literal(name)}"
    return sql, lambda: w.show(f"the {w.phrase(column)} of the {w.nouns(table)[0]} {w.pick('', 'named ', 'called ')}{name}")


def names_where(w: Writer, ops: str) -> Draft:
    table = w.table(named=True)
    condition = w.condition(table, ops)
    sql = f"SELECT {table.label.name} FROM {table.name} WHERE {condition.sql()}"
    return sql, lambda: w.names(table, w.which(condition))


@template(12)
def where_equal(w: Writer) -> Draft:
    return names_where(w, "= = !=")


@template(24)
def where_compared(w: Writer) -> Draft:
    return names_where(w, "< > <= >=")


@template(8)
def where_like(w: Writer) -> Draft:
    return names_where(w, "LIKE")


@template(8)
def where_between(w: Writer) -> Draft:
    return names_where(w, "BETWEEN")


@template(14)
def two_columns_where(w: Writer) -> Draft:
    table = w.table(named=True)
    chosen = [table.label, w.even(table.of_kind("category", "measure", "year"))]
    condition = w.condition(table)
    sql = f"SELECT {chosen[0].name}, {chosen[1].name} FROM {table.name} WHERE {condition.sql()}"
    return sql, lambda: w.show_each(table, chosen, w.which(condition))


@template(24)
def count_where(w: Writer) -> Draft:
    table = w.table()
    condition = w.condition(table)
    return f"SELECT count(*) FROM {table.name} WHERE {condition.sql()}", lambda: w.how_many(table, w.which(condition))


@template(16)
def where_and(w: Writer) -> Draft:
    table = w.table(named=True)
    pair = w.conditions(table)
    sql = f"SELECT {table.label.name} FROM {table.name} WHERE {pair[0].sql()} AND {pair[1].sql()}"
    return sql, lambda: w.names(table, w.both(pair))


@template(10)
def count_and(w: Writer) -> Draft:
    table = w.table()
    pair = w.conditions(table)
    sql = f"SELECT count(*) FROM {table.name} WHERE {pair[0].sql()} AND {pair[1].sql()}"
    return sql, lambda: w.how_many(table, w.both(pair))


@template(8)
def where_or(w: Writer) -> Draft:
    table = w.table(named=True)
    pair = w.conditions(table)
    sql = f"SELECT {table.label.name} FROM {table.name} WHERE {pair[0].sql()} OR {pair[1].sql()}"
    return sql, lambda: w.names(table, " or ".join(w.which(condition, whose=True) for condition in pair))


@template(6)
def where_either(w: Writer) -> Draft:
    table = w.table(named=True)
    column = w.category(table)
    a, b = sorted(w.rng.sample(column.asked, 2))
    sql = f"SELECT {table.label.name} FROM {table.name} WHERE {column.name} = {literal(a)} OR {column.name} = {literal(b)}"
    return sql, lambda: w.names(table, f"whose {w.phrase(column)} is {w.pick('', 'either ')}{a} or {b}")


# one table: aggregates, distinct values, order


@template(8)
def aggregate(w: Writer) -> Draft:
    table = w.table()
    column = w.measure(table, years=True)
    functions = sorted({w.function(column), w.function(column)})
    sql = f"SELECT {', '.join(f'{function}({column.name})' for function in functions)} FROM {table.name}"

    def say() -> str:
        words = series([f"the {w.aggregate(column, function)}" for function in functions])
        return w.show(f"{words} of {w.pick('all', 'the')} {w.many(table)}", "is" if len(functions) == 1 else "are")

    return sql, say


@template(14)
def aggregate_where(w: Writer) -> Draft:
    table = w.table()
    column = w.measure(table)
    condition, function = w.condition(table, but=[column]), w.function(column)
    sql = f"SELECT {function}({column.name}) FROM {table.name} WHERE {condition.sql()}"
    return sql, lambda: w.show(f"the {w.aggregate(column, function)} of {w.many(table, w.which(condition))}")


@template(3)
def distinct(w: Writer) -> Draft:
    table = w.table()
    column = w.category(table)

    def say() -> str:
        values = f"{w.pick('different', 'distinct')} {w.phrase(column, many=True)}"
        return w.show(f"the {values} of {w.pick('the', 'all')} {w.many(table)}", "are")

    return f"SELECT DISTINCT {column.name} FROM {table.name}", say


@template(6)
def distinct_where(w: Writer) -> Draft:
    table = w.table()
    column = w.category(table)
    condition = w.condition(table, "< > <= >= = !=", but=[column])

    def say() -> str:
        values = f"{w.pick('different', 'distinct')} {w.phrase(column, many=True)}"
        return w.show(f"the {values} of {w.many(table, w.which(condition))}", "are")

    return f"SELECT DISTINCT {column.name} FROM {table.name} WHERE {condition.sql()}", say


@template(5)
def count_distinct(w: Writer) -> Draft:
    table = w.table()
    column = w.even(table.of_kind("category", "year"))

    def say() -> str:
        values, rows = f"{w.pick('different', 'distinct')} {w.phrase(column, many=True)}", w.many(table)
        return w.pick(
            f"How many {values} do the {rows} have?",
            f"Count the {values} of the {rows}.",
            f"What is the number of {values} among the {rows}?",
        )

    return f"SELECT count(DISTINCT {column.name}) FROM {table.name}", say


@template(8)
def ordered(w: Writer) -> Draft:
    table = w.table(named=True)
    column, down = w.measure(table, years=True), w.chance(0.5)
    chosen = [table.label, column] if w.chance(0.3) else [table.label]
    names = ", ".join(column.name for column in chosen)
    sql = f"SELECT {names} FROM {table.name} ORDER BY {column.name} {way(down)}"
    return sql, lambda: w.show_each(table, chosen, end=f" {w.in_order(column, down)}")


@template(8)
def ordered_where(w: Writer) -> Draft:
    table = w.table(named=True)
    column, down, condition = w.measure(table, years=True), w.chance(0.5), w.condition(table)
    sql = f"SELECT {table.label.name} FROM {table.name} WHERE {condition.sql()} ORDER BY {column.name} {way(down)}"
    return sql, lambda: w.show_each(table, [table.label], w.which(condition), f", {w.in_order(column, down)}")


@template(10)
def top_one(w: Writer) -> Draft:
    table = w.table(named=True)
    column, down = w.measure(table, years=True), w.chance(0.6)
    chosen = table.label if w.chance(0.7) else w.even([other for other in table.columns if other is not column])
    sql = f"SELECT {chosen.name} FROM {table.name} ORDER BY {column.name} {way(down)} LIMIT 1"
    return sql, lambda: w.show(f"the {w.phrase(chosen)} of {w.extreme(table, column, down)}")


@template(8)
def top_few(w: Writer) -> Draft:
    table = w.table(named=True)
    column, down, count = w.measure(table, years=True), w.chance(0.6), w.even([2, 3, 4, 5])
    sql = f"SELECT {table.label.name} FROM {table.name} ORDER BY {column.name} {way(down)} LIMIT {count}"

    def say() -> str:
        return w.show(f"the {w.phrase(table.label, many=True)} of {w.extreme(table, column, down, count=count)}", "are")

    return sql, say


@template(10)
def top_where(w: Writer) -> Draft:
    table = w.table(named=True)
    column, down, condition = w.measure(table, years=True), w.chance(0.6), w.condition(table)
    sql = f"SELECT {table.label.name} FROM {table.name} WHERE {condition.sql()} ORDER BY {column.name} {way(down)} LIMIT 1"
    return sql, lambda: w.show(f"the {w.phrase(table.label)} of {w.extreme(table, column, down, w.which(condition))}")


# one table: groups


@template(3)
def group_count(w: Writer) -> Draft:
    table = w.table()
    column = w.category(table)

    def say() -> str:
        rows, phrase = w.many(table), w.phrase(column)
        return w.pick(
            f"How many {rows} are there for each {phrase}? Show the {phrase} and the count.",
            f"For each {phrase}, show the {phrase} and the number of {rows}.",
            f"Show each {phrase} and the number of {rows} with that {phrase}.",
            f"List every {phrase} together with the number of its {rows}.",
        )

    return f"SELECT {column.name}, count(*) FROM {table.name} GROUP BY {column.name}", say


def for_each(w: Writer, sql: str, column: Column) -> None:
    """Raise Unfit unless `sql` has a row for each value, since the question asks about each of them."""
    if len(w.connection.execute(sql).fetchall()) < len(column.values):
        raise Unfit


@template(6)
def group_count_where(w: Writer) -> Draft:
    table = w.table()
    column, condition = w.category(table), w.condition(table, "< > <= >= BETWEEN !=")
    sql = f"SELECT {column.name}, count(*) FROM {table.name} WHERE {condition.sql()} GROUP BY {column.name}"
    for_each(w, sql, column)

    def say() -> str:
        phrase, rows = w.phrase(column), w.many(table, w.which(condition))
        return w.pick(
            f"For each {phrase}, show the {phrase} and the number of {rows}.",
            f"How many {rows} are there for each {phrase}? Show the {phrase} and the count.",
            f"Group the {rows} by {phrase} and show each {phrase} with its count.",
        )

    return sql, say


@template(10)
def group_aggregate(w: Writer) -> Draft:
    table = w.table()
    column, measure = w.category(table), w.measure(table, years=True)
    function = w.function(measure)

    def say() -> str:
        phrase, value, rows = w.phrase(column), w.aggregate(measure, function), w.many(table)
        return w.pick(
            f"For each {phrase}, show the {phrase} and the {value} of its {rows}.",
            f"Show each {phrase} and the {value} of the {rows} with that {phrase}.",
            f"List every {phrase} together with the {value} of its {rows}.",
            f"What is the {value} of the {rows} for each {phrase}? Show the {phrase} first.",
        )

    return f"SELECT {column.name}, {function}({measure.name}) FROM {table.name} GROUP BY {column.name}", say


@template(8)
def having_count(w: Writer) -> Draft:
    table = w.table()
    column, op, number = w.category(table), w.even([">", ">=", "<", "<="]), w.even(range(2, 12))

    def say() -> str:
        rows = f"{w.pick(*COUNTING[op]).format(number)} {w.many(table)}"
        phrases = w.phrase(column, many=True)
        return w.pick(w.show(f"the {phrases} that have {rows}", "are"), f"Which {phrases} have {rows}?")

    return f"SELECT {column.name} FROM {table.name} GROUP BY {column.name} HAVING count(*) {op} {number}", say


@template(8)
def having_aggregate(w: Writer) -> Draft:
    table = w.table()
    column, measure, op = w.category(table), w.measure(table), w.even([">", "<", ">=", "<="])
    function, number = w.even(["avg", "avg", "max", "min"]), w.even(measure.thresholds())
    sql = f"SELECT {column.name} FROM {table.name} GROUP BY {column.name}"

    def say() -> str:
        value, phrases, rows = w.aggregate(measure, function), w.phrase(column, many=True), w.many(table)
        beyond = w.pick(*BEING[op]).format(number)
        return w.pick(
            w.show(f"the {phrases} for which the {value} of the {rows} is {beyond}", "are"),
            f"For which {phrases} is the {value} of the {rows} {beyond}?",
            f"Which {phrases} have {rows} whose {value} is {beyond}?",
        )

    return f"{sql} HAVING {function}({measure.name}) {op} {number}", say


@template(5)
def group_top(w: Writer) -> Draft:
    table = w.table()
    column, down = w.category(table), w.chance(0.6)

    def say() -> str:
        phrase, rows = w.phrase(column), w.many(table)
        most, common = ("most", "most common") if down else ("fewest", "least common")
        return w.pick(
            f"Which {phrase} has the {most} {rows}?",
            f"What is the {common} {phrase} of the {rows}?",
            w.show(f"the {phrase} with the {most} {rows}"),
            f"Which {phrase} is the {common} among the {rows}?",
        )

    return f"SELECT {column.name} FROM {table.name} GROUP BY {column.name} ORDER BY count(*) {way(down)} LIMIT 1", say


@template(6)
def group_top_average(w: Writer) -> Draft:
    table = w.table()
    column, measure, down = w.category(table), w.measure(table), w.chance(0.6)
    sql = f"SELECT {column.name} FROM {table.name} GROUP BY {column.name}"

    def say() -> str:
        phrase, rows = w.phrase(column), w.many(table)
        value = f"{w.pick('highest', 'largest') if down else w.pick('lowest', 'smallest')} average {w.phrase(measure)}"
        return w.pick(
            f"Which {phrase} has the {value} of its {rows}?",
            w.show(f"the {phrase} whose {rows} have the {value}"),
            f"For which {phrase} do the {rows} have the {value}?",
        )

    return f"{sql} ORDER BY avg({measure.name}) {way(down)} LIMIT 1", say


# two tables


@template(24)
def join_where(w: Writer) -> Draft:
    relation = w.relation(named_child=True)
    condition = w.condition(relation.parent)
    sql = f"SELECT T1.{relation.child.label.name} {from_child(relation)} WHERE {condition.sql('T2')}"
    return sql, lambda: w.names(relation.child, w.upward(relation, condition))


@template(12)
def join_named(w: Writer) -> Draft:
    relation = w.relation()
    child, parent = relation.child, relation.parent
    column, name = child.label or w.even(child.columns), w.even(parent.label.asked)

    def say() -> str:
        one = w.nouns(parent)[0]
        words = w.pick(*relation.words).format(f"the {one} {w.pick('', 'named ', 'called ')}{name}")
        return w.show_each(child, [column], words)

    return f"SELECT T1.{column.name} {from_child(relation)} WHERE T2.{parent.label.name} = {literal(name)}", say


@template(4)
def join_show(w: Writer) -> Draft:
    relation = w.relation()
    first, second = relation.child.label or w.even(relation.child.columns), w.even(relation.parent.columns)

    def say() -> str:
        (one, many), up = w.nouns(relation.child), w.nouns(relation.parent)[0]
        a, b = w.phrase(first), w.phrase(second)
        its = "their" if relation.child.person else "its"
        return w.pick(
            w.show(f"the {a} of each {one} and the {b} of {its} {up}", "are"),
            f"For each {one}, show the {a} and the {b} of the {up}.",
            w.show(f"the {plural(a)} of all {many}, each with the {b} of the {up}", "are"),
        )

    return f"SELECT T1.{first.name}, T2.{second.name} {from_child(relation)}", say


@template(16)
def join_down(w: Writer) -> Draft:
    relation = w.relation()
    condition = w.condition(relation.child)
    sql = f"SELECT DISTINCT T1.{relation.parent.label.name} {from_parent(relation)} WHERE {condition.sql('T2')}"
    return sql, lambda: w.names(relation.parent, w.downward(relation, condition))


@template(10)
def join_and(w: Writer) -> Draft:
    relation = w.relation(named_child=True)
    first, second = w.condition(relation.child), w.condition(relation.parent)
    sql = f"SELECT T1.{relation.child.label.name} {from_child(relation)} WHERE {first.sql('T1')} AND {second.sql('T2')}"

    def say() -> str:
        # the words for the parents come last: what follows them would be taken to describe the parents
        words, up = w.which(first), w.upward(relation, second)
        return w.names(relation.child, f"{words} and {up}")

    return sql, say


@template(16)
def join_count(w: Writer) -> Draft:
    relation = w.relation()
    condition = w.condition(relation.parent)
    sql = f"SELECT count(*) {from_child(relation)} WHERE {condition.sql('T2')}"
    return sql, lambda: w.how_many(relation.child, w.upward(relation, condition))


@template(12)
def join_aggregate(w: Writer) -> Draft:
    relation = w.relation()
    measure, condition = w.measure(relation.child), w.condition(relation.parent)
    function = w.function(measure)
    sql = f"SELECT {function}(T1.{measure.name}) {from_child(relation)} WHERE {condition.sql('T2')}"

    def say() -> str:
        return w.show(f"the {w.aggregate(measure, function)} of {w.many(relation.child, w.upward(relation, condition))}")

    return sql, say


@template(8)
def join_top(w: Writer) -> Draft:
    relation = w.relation()
    measure, down = w.measure(relation.child, years=True), w.chance(0.6)
    column = relation.parent.label if w.chance(0.6) else w.even(relation.parent.columns)
    sql = f"SELECT T2.{column.name} {from_child(relation)} ORDER BY T1.{measure.name} {way(down)} LIMIT 1"

    def say() -> str:
        parent = w.nouns(relation.parent)[0]
        return w.show(f"the {w.phrase(column)} of the {parent} of {w.extreme(relation.child, measure, down)}")

    return sql, say


@template(10)
def join_top_where(w: Writer) -> Draft:
    relation = w.relation(named_child=True)
    child, condition = relation.child, w.condition(relation.parent)
    measure, down = w.measure(child, years=True), w.chance(0.6)
    sql = f"SELECT T1.{child.label.name} {from_child(relation)} WHERE {condition.sql('T2')}"
    sql += f" ORDER BY T1.{measure.name} {way(down)} LIMIT 1"

    def say() -> str:
        first = w.extreme(child, measure, down)
        # the words for the parents come last: what follows them would be taken to describe the parents
        return w.show(f"the {w.phrase(child.label)} of {first} {w.pick('among', 'of')} those {w.upward(relation, condition)}")

    return sql, say


@template(4)
def join_group_count(w: Writer) -> Draft:
    relation = w.relation()
    parent = relation.parent

    def say() -> str:
        one, children, name = w.nouns(parent)[0], w.many(relation.child), w.phrase(parent.label)
        return w.pick(
            f"For each {one} {parent.who} has {children}, show the {name} and the number of {children}.",
            w.show(f"the {name} of each {one} {parent.who} has {children}, and the number of these {children}", "are"),
            f"How many {children} does each {one} with {children} have? Show the {name} of the {one} and the count.",
        )

    return f"SELECT T1.{parent.label.name}, count(*) {from_parent(relation)} GROUP BY T1.{parent.key}", say


@template(6)
def join_group_aggregate(w: Writer) -> Draft:
    relation = w.relation()
    column, measure = w.category(relation.parent), w.measure(relation.child)
    function = w.even(["count", w.function(measure)])
    value = "count(*)" if function == "count" else f"{function}(T1.{measure.name})"
    sql = f"SELECT T2.{column.name}, {value} {from_child(relation)} GROUP BY T2.{column.name}"
    for_each(w, sql, column)

    def say() -> str:
        one, children, phrase = w.nouns(relation.parent)[0], w.many(relation.child), w.phrase(column)
        what = f"number of {children}" if function == "count" else f"{w.aggregate(measure, function)} of the {children}"
        return w.pick(
            f"For each {phrase} of the {one}, show the {phrase} and the {what}.",
            f"Show the {what} for each {phrase} of the {one}, the {phrase} first.",
            f"List each {phrase} of the {one} and the {what}.",
        )

    return sql, say


@template(4)
def join_having(w: Writer) -> Draft:
    relation = w.relation()
    parent, op, number = relation.parent, w.even([">", ">=", "="]), w.even([1, 2, 3, 4, 5])
    if number == 1 and op != ">":  # the words are in the plural
        raise Unfit
    sql = f"SELECT T1.{parent.label.name} {from_parent(relation)} GROUP BY T1.{parent.key} HAVING count(*) {op} {number}"

    def say() -> str:
        amount = w.pick(*COUNTING[op]).format(number)
        return w.names(parent, f"{w.pick('with', parent.who + ' have')} {amount} {w.many(relation.child)}")

    return sql, say


@template(3)
def join_most(w: Writer) -> Draft:
    relation = w.relation()
    parent = relation.parent
    column = parent.label if w.chance(0.5) else w.even(parent.columns)
    sql = f"SELECT T1.{column.name} {from_parent(relation)} GROUP BY T1.{parent.key} ORDER BY count(*) DESC LIMIT 1"
    return sql, lambda: w.show(f"the {w.phrase(column)} of the {w.nouns(parent)[0]} {w.most(relation)}")


@template(4)
def join_most_where(w: Writer) -> Draft:
    relation = w.relation()
    parent, condition = relation.parent, w.condition(relation.child)
    sql = f"SELECT T1.{parent.label.name} {from_parent(relation)} WHERE {condition.sql('T2')}"
    sql += f" GROUP BY T1.{parent.key} ORDER BY count(*) DESC LIMIT 1"

    def say() -> str:
        one = w.nouns(parent)[0]
        return w.show(f"the {w.phrase(parent.label)} of the {one} {w.most(relation)} {w.which(condition)}")

    return sql, say


# three tables


def chain_select(chain: Chain) -> str:
    """SELECT and FROM: names of the first table's rows, each once, or their number where they have no names."""
    label = chain.tables[0].label
    unique = all(relation.child is table for relation, table in zip(chain.relations, chain.tables, strict=False))
    what = "count(*)" if label is None else f"T1.{label.name}" if unique else f"DISTINCT T1.{label.name}"
    return f"SELECT {what} {from_joined(chain.tables, chain.relations)}"


def chain_ask(w: Writer, chain: Chain, last: str) -> str:
    first, modifier = chain.tables[0], w.pick(*chain.words).format(last)
    return w.names(first, modifier) if first.label else w.how_many(first, modifier)


@template(10)
def three_tables(w: Writer) -> Draft:
    chain = w.even(w.lexicon.chains)
    last = chain.tables[2]
    condition = w.condition(last, "= = < > <= >= != BETWEEN LIKE")
    sql = f"{chain_select(chain)} WHERE {condition.sql('T3')}"
    return sql, lambda: chain_ask(w, chain, w.many(last, w.which(condition)))


@template(4)
def three_tables_named(w: Writer) -> Draft:
    chain = w.even([chain for chain in w.lexicon.chains if chain.tables[2].label])
    last = chain.tables[2]
    name = w.even(last.label.asked)
    sql = f"{chain_select(chain)} WHERE T3.{last.label.name} = {literal(name)}"
    return sql, lambda: chain_ask(w, chain, f"the {w.nouns(last)[0]} {w.pick('', 'named ', 'called ')}{name}")


@template(4)
def three_tables_most(w: Writer) -> Draft:
    chain = w.even([chain for chain in w.lexicon.chains if chain.tables[0].label and chain.tables[1].label is None])
    first, _, last = chain.tables
    condition = w.condition(last, "= = = < > !=")
    sql = f"SELECT T1.{first.label.name} {from_joined(chain.tables, chain.relations)} WHERE {condition.sql('T3')}"
    sql += f" GROUP BY T1.{first.key} ORDER BY count(*) DESC LIMIT 1"

    def say() -> str:
        one = w.nouns(first)[0]
        most, last_words = w.most(chain.relations[0]), w.upward(chain.relations[1], condition)
        return w.show(f"the {w.phrase(first.label)} of the {one} {most} {last_words}")

    return sql, say


# nested


@template(6)
def beyond_average(w: Writer) -> Draft:
    table = w.table()
    measure, op = w.measure(table), w.even(["<", ">"])
    what = table.label.name if table.label and w.chance(0.7) else "count(*)"
    sql = f"SELECT {what} FROM {table.name} WHERE {measure.name} {op} (SELECT avg({measure.name}) FROM {table.name})"

    def say() -> str:
        rows, phrase = w.many(table), w.phrase(measure)
        side = w.pick("above", "greater than", "higher than") if op == ">" else w.pick("below", "less than", "lower than")
        modifier = w.pick(
            f"whose {phrase} is {side} the average",
            f"with {article(phrase)} {side} the average",
            f"whose {phrase} is {side} the average {phrase} of all {rows}",
        )
        return w.how_many(table, modifier) if what == "count(*)" else w.names(table, modifier)

    return sql, say


@template(5)
def beyond_average_and(w: Writer) -> Draft:
    table = w.table(named=True)
    measure, op = w.measure(table), w.even(["<", ">"])
    condition = w.condition(table, but=[measure])
    sql = f"SELECT {table.label.name} FROM {table.name} WHERE {condition.sql()}"
    sql += f" AND {measure.name} {op} (SELECT avg({measure.name}) FROM {table.name})"

    def say() -> str:
        rows, phrase, words = w.many(table), w.phrase(measure), w.which(condition)
        side = w.pick("greater than", "higher than", "above") if op == ">" else w.pick("less than", "lower than", "below")
        return w.names(table, f"{words} and whose {phrase} is {side} the average {phrase} of all {rows}")

    return sql, say


@template(5)
def beyond_some(w: Writer) -> Draft:
    table = w.table(named=True)
    measure, op = w.measure(table), w.even(["<", ">"])
    condition = w.condition(table, "= = < >", but=[measure])
    if condition.op == "=" and condition.column.kind != "category":  # too few rows to speak of their average
        raise Unfit
    function = w.even(["avg", {"<": "min", ">": "max"}[op]])
    sql = f"SELECT {table.label.name} FROM {table.name} WHERE {measure.name} {op}"
    sql += f" (SELECT {function}({measure.name}) FROM {table.name} WHERE {condition.sql()})"

    def say() -> str:
        rows, phrase = w.many(table, w.which(condition)), w.phrase(measure)
        side = w.pick("greater than", "higher than", "above") if op == ">" else w.pick("less than", "lower than", "below")
        end = {"avg": "average", "min": "lowest", "max": "highest"}[function]
        return w.names(table, f"whose {phrase} is {side} the {end} {phrase} of the {rows}")

    return sql, say


@template(3)
def not_in(w: Writer) -> Draft:
    relation = w.relation()
    parent = relation.parent
    what = w.even([parent.label.name, "count(*)"])
    sql = f"SELECT {what} FROM {parent.name} WHERE {parent.key} NOT IN (SELECT {relation.column} FROM {relation.child.name})"
    ask = w.how_many if what == "count(*)" else w.names
    return sql, lambda: ask(parent, w.without(relation))


@template(6)
def not_in_where(w: Writer) -> Draft:
    relation = w.relation()
    parent, condition = relation.parent, w.condition(relation.child)
    sql = f"SELECT {parent.label.name} FROM {parent.name} WHERE {parent.key} NOT IN"
    sql += f" (SELECT {relation.column} FROM {relation.child.name} WHERE {condition.sql()})"
    return sql, lambda: w.names(parent, f"{w.without(relation)} {w.which(condition)}")


@template(4)
def count_in(w: Writer) -> Draft:
    relation = w.relation()
    parent, condition = relation.parent, w.condition(relation.child)
    sql = f"SELECT count(*) FROM {parent.name} WHERE {parent.key} IN"
    sql += f" (SELECT {relation.column} FROM {relation.child.name} WHERE {condition.sql()})"
    return sql, lambda: w.how_many(parent, w.downward(relation, condition))


# set operations


@template(4)
def intersect(w: Writer) -> Draft:
    table = w.table()
    column, pair = w.category(table), w.apart(w.measure(table, years=True))
    first, second = (f"SELECT {column.name} FROM {table.name} WHERE {condition.sql()}" for condition in pair)

    def say() -> str:
        phrases, (_, many) = w.phrase(column, many=True), w.nouns(table)
        a, b = (f"{many} {w.which(condition)}" for condition in pair)
        return w.pick(
            f"Which {phrases} have both {a} and {b}?",
            f"Which {phrases} are shared by {a} and {b}?",
            w.show(f"the {phrases} that have both {a} and {b}", "are"),
            w.show(f"the {phrases} that occur both among {a} and among {b}", "are"),
        )

    return f"{first} INTERSECT {second}", say


@template(4)
def except_where(w: Writer) -> Draft:
    table = w.table()
    column = w.category(table)
    condition = w.condition(table, "< > <= >= =", but=[column])
    sql = f"SELECT {column.name} FROM {table.name} EXCEPT SELECT {column.name} FROM {table.name} WHERE {condition.sql()}"

    def say() -> str:
        phrases, rows = w.phrase(column, many=True), w.many(table, w.which(condition))
        return w.pick(
            f"Which {phrases} have no {rows}?",
            w.show(f"the {phrases} that have no {rows}", "are"),
            w.show(f"the {phrases} that do not occur among {rows}", "are"),
            f"Which {phrases} do not occur among {rows}?",
        )

    return sql, say


@template(3)
def except_names(w: Writer) -> Draft:
    table = w.table(named=True)
    first = w.condition(table)
    second = w.condition(table, but=[first.column])
    select = f"SELECT {table.label.name} FROM {table.name}"
    sql = f"{select} WHERE {first.sql()} EXCEPT {select} WHERE {second.sql()}"
    return sql, lambda: w.names(table, f"{w.which(first)}, {w.pick('except', 'leaving out')} those {w.which(second)}")


@template(4)
def union(w: Writer) -> Draft:
    tables = w.rng.sample([table for table in w.lexicon.tables.values() if table.label], 2)
    found = [w.condition(table) for table in tables]
    first, second = (f"SELECT {t.label.name} FROM {t.name} WHERE {c.sql()}" for t, c in zip(tables, found, strict=True))

    def say() -> str:
        words = [w.which(condition) for condition in found]
        a, b = (w.each(table, [table.label], word, w.chance(0.5)) for table, word in zip(tables, words, strict=True))
        return w.pick(
            f"In one list, show {a} and {b}.",
            w.show(f"{a} together with {b}", "are"),
            f"Combine {a} and {b} in one list.",
        )

    return f"{first} UNION {second}", say


@template(4)
def intersect_join(w: Writer) -> Draft:
    relation = w.relation()
    parent, child = relation.parent, relation.child
    if child.of_kind("category") and w.chance(0.5):
        column = w.category(child)
        pair = [Condition(column, "=", value) for value in sorted(w.rng.sample(column.asked, 2))]
    else:
        pair = w.apart(w.measure(child, years=True))
    select = f"SELECT T1.{parent.label.name} {from_parent(relation)} WHERE "
    sql = f"{select}{pair[0].sql('T2')} INTERSECT {select}{pair[1].sql('T2')}"

    def say() -> str:
        (one, many), have = w.nouns(child), w.pick("with", f"{parent.who} have")
        a, b = (w.which(condition) for condition in pair)
        rows = w.pick(f"{many} {a} and {many} {b}", f"{article(one)} {a} and {article(one)} {b}")
        return w.names(parent, f"{have} both {rows}")

    return sql, say
