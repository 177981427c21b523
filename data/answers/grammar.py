"""A grammar of the SQL statements about one database: what it accepts parses, and names tables and columns that are there.

    python3 -m data.grammar --data DIR [--walk N]

says of each split of a directory in Spider's layout how many gold statements, in each of the two spellings, their database's
grammar accepts, and which not; `--walk N` writes N statements at random by the grammars, runs them, and says which fail.

`grammar` needs the standard library alone. What it returns is for llguidance (https://github.com/guidance-ai/llguidance): its
variant of Lark with parametric rules (docs/parametric.md there), where a rule carries 64 bits that alternatives may change and
ask. They say which tables the SELECT list named, and which FROM has joined, so that a column is taken only with its table.

Rules that stand here because llguidance 1.9.1 needs them:
- its lexer does not go back: a terminal may end in an optional space, but not in an optional tail behind a space;
- it completes a rule for every parameter with which the rule began at the same place. So all that changes the parameter (the
  SELECT list, FROM) is written with each piece naming the next, and only behind FROM, where one value is left, do rules nest;
- it reads one text in two ways only if both have the same parameter: of two, a rule at one place heeds one;
- it panics at a rule whose one alternative changes the parameter, and at a recursive rule with a constant one: so the former
  gets another alternative, never taken, and parameters of SELECTs within are made from the outer one's.

Untrained models write what repeats for ever if they may. Nothing may here: lists, conditions, brackets, texts, numbers, joins,
set operations and SELECTs within SELECTs all have a longest form.
"""

import random
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.benchmark.prompt import RESERVED, name, target
from data.benchmark.sample import directory_of
from data.benchmark.schema import Example, Schema, database_file
from data.benchmark.spelling import KEYWORDS, spelled
from data.benchmark.spider import files_of, read_examples, read_schemas, splits_in
from data.common.commands import command_parser
from data.common.errors import UserError, printable
from data.sqlite.execute import TIMED_OUT, Executor, explained

# the 64 bits of a parameter: up to TABLE_BITS of them for tables, then
TABLE_BITS = 53
COMMAS = "[53:56]"  # in the SELECT list so far
WIDTH = "[56:59]"  # how many columns the SELECT list must have; 0: any number
COMMAS_AND_WIDTH = "[53:59]"
AGGREGATE = 59  # the SELECT list has an aggregate, so ORDER BY may have one too
UNORDERED = 60  # the right side of a set operation, which in SQLite has no ORDER BY of its own
DEPTH = "[61:64]"  # SELECTs around this one, and set operations before it
DEPTH_BITS = 0b111 << 61
STAR = 0b111 << 53  # the value of COMMAS for `*`, whose width is unknown
MAX_DEPTH, MAX_WIDTH = 5, 7
MAX_ALIASES, MAX_ALIASED_TABLES, MAX_JOINS = 7, 100, 12
MAX_NAMES = 20_000  # of tables and columns; larger schemas would take llguidance seconds

COLUMN = "a column of the SELECT list"  # a placeholder in the parts of `_Form.chain`
CASES = (("CASE", COLUMN, 'simple " THEN " literal otherwise'), ("CASE", COLUMN, 'simple " THEN "', COLUMN, "otherwise"))


def grammar(schema: Schema, without: Collection[str] = ()) -> str:
    """llguidance's Lark grammar of the statements about a database, as `data.benchmark.spelling` writes them.

    With the schema's `full_names`, columns are `table.column` (`qualified`), else with or without their table (`plain`). FROM
    names each table once, or gives tables the aliases T1, T2 ... A statement begins with a space, as after the cue of a
    decoder-only model. Tables and columns with control characters in their names, or among `without`, are left out. With more
    than 26 tables the grammar does not check that a column's table is in FROM.

    Raises ValueError, in one line, for a schema without a column that SQL can name, and for one that is too large.
    """
    if len(schema.columns) + len(schema.tables) > MAX_NAMES:
        raise ValueError(f"the database {schema.db_id} has more than {MAX_NAMES:,} tables and columns")
    names = _Names(schema, without)
    if not any(names.columns):
        which = "SQL can name" + " and the model's vocabulary can write" * bool(without)
        raise ValueError(f"the database {schema.db_id} has no column that {which}")
    rules = _Rules()
    rules.add("start", '" " query::0x0')
    _selects(rules, names)
    forms: list[_Form] = [_ByName(rules, names)]
    if len(names.tables) <= MAX_ALIASED_TABLES:
        forms.append(_ByAlias(rules, names))
    for form in forms:
        form.write()
    words = (f"{kind}: /{_in_any_case(each)}/" for kind, each in WORDS.items())
    return "\n".join([*rules.lines(), *names.lines(), *words]) + TERMINALS


def _in_any_case(words: str) -> str:
    """A regular expression of words, with letters small or capital; the flag `i` would take other letters too, as a long s."""
    return re.sub("[a-z]", lambda letter: f"[{letter[0]}{letter[0].upper()}]", "|".join(words.split()))


# SQLite's functions, by what stands in their brackets beside an expression, and other words in small or capital letters
ARGUMENTS = {
    "F1": "{} RP",
    "F2": "{} COMMA literal RP",
    "F3": "{} COMMA literal COMMA literal RP",
    "STRFTIME": "STRING COMMA {} RP",
}
WORDS = {
    "F1": "abs date datetime julianday length lower ltrim round rtrim time trim upper",
    "F2": "coalesce date ifnull instr nullif round substr",
    "F3": "coalesce replace substr",
    "STRFTIME": "strftime",
    "TIME": "date datetime julianday time",
    "CAST": "cast",
    "TYPE": "integer int real float double numeric text",
}

TERMINALS = r"""
COMMA: / ?, ?/
LP: / ?\( ?/
OPEN: /\( ?/
RP: / ?\)/
COUNT: "COUNT"
AGG: "COUNT" | "SUM" | "AVG" | "MIN" | "MAX"
AS_NAME: AS_WORD | AS_QUOTED
AS_WORD: / AS [A-Za-z_][A-Za-z0-9_]{0,40}/ & ~/ AS (RESERVED)/
AS_QUOTED: / AS "[^"\x00-\x1f\x7f-\x9f\u2028\u2029]{1,60}"/
DISTINCT: "DISTINCT "
DISTINCT_OF: /DISTINCT ?\( ?/
OP: / ?[-+*\/%] ?/
CONCAT: / ?\|\| ?/
CASE: "CASE WHEN "
CMP: / ?(=|!=|<>|<=|>=|<|>) ?/
LOGIC: " AND " | " OR "
LIKE: / (NOT )?LIKE /
BETWEEN: / (NOT )?BETWEEN /
NULL: / IS (NOT )?NULL/
IN: / (NOT )?IN ?\( ?/
EXISTS: /(NOT )?EXISTS ?\( ?/
JOIN: / (INNER |CROSS |LEFT |LEFT OUTER )?JOIN / | / ?, ?/
DIRECTION: " ASC" | " DESC"
SETOP: / (UNION|UNION ALL|INTERSECT|EXCEPT) /
LIMIT: / LIMIT [0-9]{1,9}/
OFFSET: /( OFFSET | ?, ?)[0-9]{1,9}/
STRING: /'([^'\x00-\x1f\x7f-\x9f\u2028\u2029]|''){0,200}'/
literal: STRING | NUMBER
literals: literal (COMMA literal){0,20}
moment: TIME LP STRING (COMMA STRING){0,2} RP | STRFTIME LP STRING (COMMA STRING){1,2} RP
simple: CMP literal | LIKE STRING | BETWEEN literal " AND " literal | NULL | IN literals RP
otherwise: (" ELSE " (literal | "NULL"))? " END"
UNSIGNED: /[0-9]{1,15}(\.[0-9]{1,15})?/
NUMBER: /-?[0-9]{1,15}(\.[0-9]{1,15})?/
""".replace("RESERVED", _in_any_case(" ".join(sorted(RESERVED))))


# ---------------------------------------------------------------------------------------------------------------------
# names


class _Names:
    """The tables and columns that SQL can name, and the terminals for their spellings.

    `tables`: indices of the schema's tables; `columns`: for each of them, column name -> the tables (positions in `tables`)
    with a column of that name, ignoring case.
    """

    def __init__(self, schema: Schema, without: Collection[str] = ()) -> None:
        self.full = schema.full_names
        # no question asks about SQLite's own tables, and not every copy of a database has them
        kept = (number for number, table in enumerate(schema.tables) if not table.lower().startswith("sqlite_"))
        self.tables = [
            number for number in kept if is_plain_text(schema.tables[number]) and schema.tables[number] not in without
        ]
        self.table_names = [schema.tables[number] for number in self.tables]
        place = {number: place for place, number in enumerate(self.tables)}
        owners: dict[str, set[int]] = {}
        own: list[dict[str, None]] = [{} for _ in self.tables]
        for table, column in schema.columns:
            if table in place and is_plain_text(column) and column not in without:
                own[place[table]][column] = None
                owners.setdefault(column.lower(), set()).add(place[table])
        self.columns = [{column: frozenset(owners[column.lower()]) for column in columns} for columns in own]
        pairs = {frozenset(place.get(schema.columns[key][0], -1) for key in keys) for keys in schema.foreign_keys}
        self.linked = sorted(tuple(sorted(pair)) for pair in pairs if len(pair) == 2 and -1 not in pair)
        self._terminals: dict[str, str] = {}  # regular expression -> terminal

    def terminal(self, kind: str, pattern: str) -> str:
        """The terminal of a regular expression; equal ones share it, since to llguidance each name is another terminal."""
        return self._terminals.setdefault(pattern, f"{kind}{len(self._terminals)}")

    def table(self, table: int) -> str:
        """The terminal of a table in FROM."""
        return self.terminal("TABLE", _either(_spellings(self.table_names[table], loose=True)))

    def column(self, table: int) -> str:
        """The terminal of `table.column` for all columns of a table."""
        columns = _either(text for column in self.columns[table] for text in _spellings(column, loose=True))
        return self.terminal("COLUMN", rf"{_either(_spellings(self.table_names[table]))}\.{columns}")

    def behind(self, table: int) -> str:
        """The terminal of a table's columns after an alias and a full stop."""
        return self.terminal("NAME", _either(text for column in self.columns[table] for text in _spellings(column, loose=True)))

    def bare(self, table: int, keywords: bool = False) -> Iterator[tuple[str, frozenset[int]]]:
        """The terminals of a table's columns without its name, each with the tables that have columns of these names.

        `keywords`: only columns called like a keyword, such as `count`, which `qualified` leaves as they are.
        """
        groups: dict[frozenset[int], list[str]] = {}
        for column, owners in self.columns[table].items():
            keyword = column.lower() in KEYWORDS - RESERVED
            texts = _spellings(column) + ([column.upper(), f'"{column}"'] if keyword else [])
            if keyword or not keywords:
                groups.setdefault(owners, []).extend(texts)
        for owners, texts in groups.items():
            yield self.terminal("BARE", _either(texts)), owners

    def lines(self) -> Iterator[str]:
        for pattern, terminal in self._terminals.items():
            yield f"{terminal}: /{pattern}/"


def is_plain_text(text: str) -> bool:
    """Whether a name can be part of a statement of one line."""
    return bool(text) and not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text)


def _spellings(text: str, loose: bool = False) -> list[str]:
    """The permitted spellings of a name: quoted where needed; one with non-ASCII letters both with and without quotes.

    `loose`: at places where no expression can begin, as in FROM or after a full stop, SQLite takes two more words for names.
    """
    written = name(text)
    if written == text and not text.isascii():
        return [text, f'"{text}"']
    return [written, text] if loose and text.lower() in ("cast", "raise") else [written]


def _either(texts: Iterable[str]) -> str:
    """A regular expression that matches exactly these texts."""
    escaped = ("".join(c if c.isalnum() or c == "_" or ord(c) > 127 else f"\\x{ord(c):02x}" for c in text) for text in texts)
    return f"({'|'.join(dict.fromkeys(escaped))})"


# ---------------------------------------------------------------------------------------------------------------------
# rules


class _Rules:
    """Grammar rules and their alternatives, in the order in which they were added."""

    def __init__(self) -> None:
        self._bodies: dict[str, dict[str, None]] = {}

    def add(self, rule: str, body: str, condition: str = "") -> None:
        """Add an alternative to a rule; the condition on the parameter may be empty."""
        head = rule if rule == "start" else f"{rule}::_"
        self._bodies.setdefault(head, {})[body + (f" %if {condition}" if condition else "")] = None

    def lines(self) -> Iterator[str]:
        for head, bodies in self._bodies.items():
            changes, asks = any(re.search(r"::(?!_)", body) for body in bodies), any("%if" in body for body in bodies)
            if head != "start" and (changes and len(bodies) == 1 or not (asks or any("::" in body for body in bodies))):
                # never taken; llguidance would inline a rule with one alternative, and a rule has to use its parameter
                bodies = [*bodies, "COMMA %if not(true)"]
            yield f"{head}: " + "\n  | ".join(bodies)


def _all(conditions: Sequence[str]) -> str:
    return _joined("and", conditions)


def _any(conditions: Sequence[str]) -> str:
    return _joined("or", conditions)


def _both(one: str, other: str) -> str:
    """The conjunction of two conditions; an empty one is always true."""
    return _all([condition for condition in (one, other) if condition])


def _joined(function: str, conditions: Sequence[str]) -> str:
    """Join conditions by a function of two, as a balanced tree, since llguidance limits the depth of brackets."""
    if len(conditions) < 2:
        return "".join(conditions)
    half = len(conditions) // 2
    return f"{function}({_joined(function, conditions[:half])}, {_joined(function, conditions[half:])})"


WITHIN = f"lt({DEPTH}, {MAX_DEPTH})"
SCALAR = f"scalar::bit_and({DEPTH_BITS:#x})"  # a SELECT of one column
INNER = f"inner::bit_and({DEPTH_BITS:#x})"  # a SELECT of any number of columns
WITH_TABLES = f"bit_and({DEPTH_BITS | (1 << TABLE_BITS) - 1:#x})"  # what a SELECT keeps that refers to the tables around it


def _selects(rules: _Rules, names: _Names) -> None:
    """The rules of SELECTs, by where they may be; with FROM, they go on with the rule `body`."""
    rules.add("query", '"SELECT " body::_')
    subquery = f"OPEN {SCALAR} RP"  # without FROM, only subqueries: no question asks for a constant
    for given in (subquery, f"{subquery} OP {subquery}", f"{subquery} OP UNSIGNED"):
        rules.add("query", f'"SELECT " {given}')
    rules.add("inner", f'"SELECT " body::incr({DEPTH})')
    rules.add("scalar", f'"SELECT" one::incr({DEPTH})')
    rules.add("one", f'" " body::bit_or({1 << 56:#x})')
    for width in range(1, MAX_WIDTH + 1):
        rules.add(f"right{width}", f'"SELECT" wide{width}::incr({DEPTH})')
        rules.add(f"wide{width}", f'" " body::bit_or({width << 56 | 1 << UNORDERED:#x})')


LIMITS = ("", "LIMIT", "LIMIT OFFSET")


class _Form:
    """The rules of a SELECT that refers to all its tables in one way; `mark` is the prefix of the rules' names.

    Subclasses say how a column is written in the SELECT list, before the tables are known, how after FROM, and what FROM looks
    like.
    """

    mark = ""

    def __init__(self, rules: _Rules, names: _Names) -> None:
        self.rules, self.names = rules, names
        self.places = range(len(names.tables))
        self._chains: dict[tuple, str] = {}

    def add(self, rule: str, body: str, condition: str = "") -> None:
        self.rules.add(self.mark + rule, body, condition)

    def write(self) -> None:
        self.select_list()
        self.from_clause()
        self.columns()
        self.keys()
        self.clauses()
        for having in ("", "h"):
            self.conditions(having)
            self.expressions(having)

    def listed(self, then: str) -> Iterator[tuple[str, str]]:
        """Alternatives (body, condition) for a column of the SELECT list, followed by the rule `then`."""
        raise NotImplementedError

    def from_clause(self) -> None:
        """The rule `from`, and those after it up to `done`."""
        raise NotImplementedError

    def columns(self) -> None:
        """The rules `col`, for a column after FROM, and `oncol`, for one in ON, when later tables may have its name too."""
        raise NotImplementedError

    def with_columns(self) -> list[int]:
        """The tables that have columns."""
        return [table for table in self.places if self.names.columns[table]]

    def in_from(self, table: int) -> str:
        """The condition, valid after FROM, that FROM has the table."""
        raise NotImplementedError

    def spare(self) -> str:
        """The condition, valid after FROM, that a FROM within this SELECT can name a further table."""
        raise NotImplementedError

    def has_columns(self) -> str:
        """The condition that a table in FROM has columns; empty where every table has some."""
        some = self.with_columns()
        return _any([self.in_from(table) for table in some]) if len(some) < len(self.places) else ""

    def chain(self, parts: tuple, then: str) -> str:
        """The rule for parts, then `then`; a part: terminals, COLUMN or (terminals, change of the parameter, condition)."""
        if not parts:
            return then
        key = parts, then
        if key not in self._chains:
            self._chains[key] = rule = f"{self.mark}c{len(self._chains)}"
            behind = self.chain(parts[1:], then)
            if parts[0] == COLUMN:
                for body, condition in self.listed(behind):
                    self.rules.add(rule, body, condition)
            else:
                symbols, change, condition = parts[0] if isinstance(parts[0], tuple) else (parts[0], "_", "")
                self.rules.add(rule, f"{symbols} {behind}::{change}", condition)
        return self._chains[key]

    def either(self, rule: str, forms: Iterable[tuple], then: str) -> str:
        """A rule for one of several forms, then `then`."""
        rule = f"{self.mark}{rule}"
        for parts in forms:
            self.rules.add(rule, f"{self.chain(parts, then)}::_")
        return rule

    def totals(self, aggregate: tuple[str, str, str]) -> list[tuple]:
        """Aggregates of several columns, as parts."""
        return [(aggregate, COLUMN, "OP", COLUMN, "RP"), *((aggregate, *case, "RP") for case in CASES)]

    def made_of_columns(self, aggregate: tuple[str, str, str]) -> list[tuple]:
        """Other forms of a column of the SELECT list, as parts."""
        if len(self.places) > MAX_ALIASED_TABLES:  # llguidance has room for 65,525 symbols
            return []
        total, cases, *_ = self.totals(aggregate)
        alone = [(COLUMN,), (aggregate, COLUMN, "RP")]
        return [
            CASES[0],
            ("CASE", COLUMN, 'simple " THEN " literal " WHEN "', *CASES[0][1:]),
            ("F2 LP", COLUMN, "COMMA", COLUMN, "RP"),
            ("F3 LP", COLUMN, "COMMA literal COMMA literal RP"),
            *(("F2 LP", *parts, "COMMA literal RP") for parts in (*alone, total)),
            *(("CAST LP", *parts, '" AS " TYPE RP') for parts in (*alone, ("STRFTIME LP STRING COMMA", COLUMN, "RP"), cases)),
        ]

    def select_list(self) -> None:
        """From after SELECT to FROM. A column has two operators at most."""
        item, end, ended = (self.mark + rule for rule in ("item", "itemend", "itemended"))
        aggregate = "AGG LP", f"set_bit({AGGREGATE})", ""
        plain_operands = [
            (COLUMN,),
            ("F1 LP", COLUMN, "RP"),
            ("STRFTIME LP STRING COMMA", COLUMN, "RP"),
            (aggregate, COLUMN, "RP"),
            (aggregate, "DISTINCT", COLUMN, "RP"),
            (('COUNT LP "*" RP', f"set_bit({AGGREGATE})", ""),),
            ((f"OPEN {SCALAR} RP", "_", WITHIN),),
        ]
        second = self.either("second", plain_operands, f"{self.mark}seconded")
        first = self.either("first", plain_operands + self.totals(aggregate), end)
        self.either("item", self.made_of_columns(aggregate), end)
        self.rules.add(item, f"{self.chain(('OPEN', COLUMN, 'OP', COLUMN, 'RP'), end)}::_")
        for operand in ("", "UNSIGNED OP", "moment OP"):
            self.rules.add(item, f"{operand} {first}::_")
        for operands in ("OP", "OP UNSIGNED OP", "CONCAT", "CONCAT STRING CONCAT"):
            self.add("itemend", f"{operands} {second}::_")
        for rule, operands in (("itemend", ("", "OP UNSIGNED", "CONCAT STRING")), ("seconded", ("", "OP UNSIGNED"))):
            for operand in operands:
                self.add(rule, f"{operand} {ended}::_")
        self.add("itemended", f"{self.mark}itemnamed::_")
        self.add("itemended", f"AS_NAME {self.mark}itemnamed::_")
        more = [f"and(eq({WIDTH}, {width}), lt({COMMAS}, {width - 1}))" for width in range(2, MAX_WIDTH + 1)]
        free = f"and(eq({WIDTH}, 0), lt({COMMAS}, {MAX_WIDTH - 1}))"
        self.add("itemnamed", f"COMMA {item}::incr({COMMAS})", _any([free, *more]))
        right = [f"eq({COMMAS_AND_WIDTH}, {width << 3 | width - 1})" for width in range(1, MAX_WIDTH + 1)]
        self.add("itemnamed", f'" FROM " {self.mark}from::_', _any([f"eq({WIDTH}, 0)", *right]))
        self.rules.add("body", f"{item}::_")
        self.rules.add("body", f"DISTINCT {item}::_")
        self.rules.add("body", f"DISTINCT_OF {self.chain((COLUMN, 'RP'), end)}::_")
        for distinct in ("", "DISTINCT "):
            self.rules.add("body", f'{distinct}"*" {self.mark}all::bit_or({STAR:#x})', f"eq({WIDTH}, 0)")
        self.add("all", f'" FROM " {self.mark}from::_')
        # of EXISTS, whose columns may be of the tables around it: without aggregates, which might then belong there
        for what in ("1", "*"):
            self.add("exists", f'"SELECT {what}" {self.mark}all::bit_or({MAX_DEPTH << 61 | 1 << UNORDERED:#x})')

    def clauses(self) -> None:
        """All after FROM. HAVING may have aggregates, and so may ORDER BY after GROUP BY or if the SELECT list has one."""
        m = self.mark
        some = self.has_columns()
        for where, condition in (("", ""), (f'" WHERE " {m}cond::_ ', some)):
            for bit, after in (("clear", "after"), ("set", "hafter")):
                self.add("done", f"{where}{m}{after}::_", _both(condition, f"bit_{bit}({AGGREGATE})"))
            outer = _both(some, WITHIN)
            self.add("done", f'{where}" HAVING " {m}hcond::_ {m}hafter::_', _both(outer, f"bit_set({AGGREGATE})"))
            self.add("done", f'{where}" GROUP BY " {m}groups::_ {m}hafter::_', outer)
            self.add("done", f'{where}" GROUP BY " {m}groups::_ " HAVING " {m}hcond::_ {m}hafter::_', outer)
        for number in range(1, 6):
            self.add("groups", " COMMA ".join([f"{m}unit::_"] * number))
        self.add("groups", f"OPEN {m}col::_ RP")
        for limit in LIMITS:
            for h in ("", "h"):
                self.add(f"{h}after", limit or '""')
                self.add(f"{h}after", f'" ORDER BY " {m}{h}terms::_ {limit}', _both(some, f"bit_clear({UNORDERED})"))
        for h in ("", "h"):
            for number in range(1, 5):
                self.add(f"{h}terms", " COMMA ".join([f"{m}{h}term::_"] * number))
            for direction in ("", " DIRECTION"):
                self.add(f"{h}term", f"{m}{h}expr::_{direction}")
                self.add(f"{h}term", f"{m}{h}expr::_ CMP literal{direction}")
                for position in range(1, MAX_WIDTH + 1):
                    self.add(f"{h}term", f'"{position}"{direction}', f"and(ge({COMMAS}, {position - 1}), lt({COMMAS}, 7))")
            self.set_operations(f"{h}after")

    def set_operations(self, after: str) -> None:
        """After a SELECT, a set operator and a SELECT of as many columns."""
        for width in range(1, MAX_WIDTH + 1):
            fits = f"and(eq({COMMAS}, {width - 1}), {WITHIN})"
            self.add(after, f"SETOP right{width}::bit_and({DEPTH_BITS:#x})", fits)

    def conditions(self, h: str) -> None:
        """Comparisons, up to six at a level, and two levels of brackets."""
        m = self.mark + h
        for level, inner in (("cond", "cond1"), ("cond1", "cond2"), ("cond2", "")):
            pred = level.replace("cond", "pred")
            for number in range(1, 7 if level == "cond" else 5):
                self.add(f"{h}{level}", " LOGIC ".join([f"{m}{pred}::_"] * number))
            self.add(f"{h}{pred}", f"{m}test::_")
            if inner:
                self.add(f"{h}{pred}", f"OPEN {m}{inner}::_ RP")
                self.add(f"{h}{pred}", f'"NOT " OPEN {m}{inner}::_ RP')
        for body in ("CMP {v}", "LIKE STRING", 'BETWEEN {v} " AND " {v}', "NULL", "IN literals RP"):
            self.add(f"{h}test", f"{m}expr::_ " + body.format(v=f"{m}value::_"))
        self.add(f"{h}test", f'"NOT " {m}expr::_ LIKE STRING')
        self.add(f"{h}test", f'"NOT " {m}expr::_ CMP {m}value::_')
        self.add(f"{h}test", f"{m}expr::_ IN {SCALAR} RP", WITHIN)
        self.add(f"{h}test", f"EXISTS {self.mark}exists::{WITH_TABLES} RP", _both(WITHIN, self.spare()))
        self.add(f"{h}test", f"OPEN {SCALAR} RP CMP {m}value::_", WITHIN)

    def expressions(self, h: str) -> None:
        """Columns, with `h` also aggregates, and expressions of them: two operators at most, functions two deep."""
        m, mh = self.mark, self.mark + h
        for body in ("literal", "moment", f"{mh}expr::_"):
            self.add(f"{h}value", body)
        self.add(f"{h}value", f"OPEN {SCALAR} RP", WITHIN)
        unit, operand, base, part, argument = (f"{mh}{rule}::_" for rule in ("unit", "operand", "base", "part", "argument"))
        for body in (unit, "UNSIGNED", "moment"):
            self.add(f"{h}operand", body)
        # a sign after an operator could begin a comment: `--1`
        for body in (unit, f"{unit} OP {operand}", f"{unit} OP {operand} OP {operand}", f"OPEN {unit} OP {unit} RP"):
            self.add(f"{h}expr", body)
        for body in (f"OPEN {unit} RP", f"UNSIGNED OP {unit}", f"UNSIGNED OP {unit} OP {operand}", f"moment OP {unit}"):
            self.add(f"{h}expr", body)
        for body in (f"{unit} CONCAT {unit}", f"{unit} CONCAT STRING", f"{unit} CONCAT STRING CONCAT {unit}"):
            self.add(f"{h}expr", body)
        for kind, arguments in ARGUMENTS.items():
            self.add(f"{h}unit", f"{kind} LP {arguments.format(argument)}")
        self.add(f"{h}unit", base)
        self.add(f"{h}unit", f'CAST LP {argument} " AS " TYPE RP')
        self.add(f"{h}unit", f"F2 LP {base} COMMA {base} RP")
        when = f'{argument} simple " THEN " {mh}branch::_'
        for number in range(1, 4):
            for end in ('" END"', f'" ELSE " {mh}branch::_ " END"'):
                whens = ' " WHEN " '.join([when] * number)
                self.add(f"{h}unit", f"CASE {whens} {end}")
        for body in ("literal", '"NULL"', base):
            self.add(f"{h}branch", body)
        for body in (base, f"F1 LP {base} RP", f"STRFTIME LP STRING COMMA {base} RP"):
            self.add(f"{h}part", body)
        for body in (part, f"{part} OP {part}", f"{part} OP UNSIGNED"):
            self.add(f"{h}argument", body)
        bases = [f"{m}col::_"]
        if h:
            bases += ['COUNT LP "*" RP', f"AGG LP {m}unit::_ RP", f"AGG LP DISTINCT {m}col::_ RP"]
            bases += [f"AGG LP {m}col::_ OP {m}col::_ RP"]
        for body in bases:
            self.add(f"{h}base", body)

    def on(self, rule: str, then: str) -> None:
        """An optional ON after a joined table, then `then`."""
        self.add(rule, f"{self.mark}{then}::_")
        self.add(rule, f'" ON " {self.mark}keys::_ {self.mark}{then}::_', self.has_columns())

    def keys(self) -> None:
        """The conditions of ON."""
        for number in range(1, 5):
            self.add("keys", " LOGIC ".join([f"{self.mark}key::_"] * number))
        col = f"{self.mark}oncol::_"
        for body in (f"{col} CMP {col}", f"{col} CMP literal", f"OPEN {col} CMP {col} RP"):
            self.add("key", body)


# the states of a table, two bits (0: none of these): the SELECT list has a column of it, and FROM has yet to name it; FROM has
# it; FROM must not have it, since it would make a column without table name ambiguous
NAMED, JOINED, BARRED = 1, 2, 3


class _ByName(_Form):
    """Tables referred to by name, each at most once in FROM."""

    def __init__(self, rules: _Rules, names: _Names) -> None:
        super().__init__(rules, names)
        self.checked = 2 * len(names.tables) <= TABLE_BITS

    def state(self, table: int) -> str:
        return f"[{2 * table}:{2 * table + 2}]"

    def is_joined(self, table: int) -> str:
        return f"eq({self.state(table)}, {JOINED})"

    def is_not_joined(self, table: int) -> str:
        return f"ne({self.state(table)}, {JOINED})"

    def not_awaited(self, table: int) -> str:
        return f"ne({self.state(table)}, {NAMED})"

    def barred(self, tables: Iterable[int]) -> int:
        return sum(BARRED << 2 * table for table in tables)

    def in_from(self, table: int) -> str:
        return self.is_joined(table) if self.checked else "true"

    def spare(self) -> str:
        return _any([f"bit_clear({2 * table + 1})" for table in self.places]) if self.checked else f"lt([0:4], {MAX_JOINS})"

    def listed(self, then: str) -> Iterator[tuple[str, str]]:
        for table in self.with_columns():
            if not self.checked:
                yield f"{self.names.column(table)} {then}::_", ""
                continue
            open_ = f"bit_clear({2 * table + 1})"
            yield f"{self.names.column(table)} {then}::set_bit({2 * table})", open_
            for terminal, owners in self.names.bare(table, keywords=self.names.full):
                others = sorted(owners - {table})
                conditions = [open_, *(self.not_awaited(other) for other in others)]
                yield f"{terminal} {then}::bit_or({NAMED << 2 * table | self.barred(others):#x})", _all(conditions)
        if not self.checked:
            for terminal in dict.fromkeys(
                terminal for table in self.places for terminal, _ in self.names.bare(table, self.names.full)
            ):
                yield f"{terminal} {then}::_", ""

    def from_clause(self) -> None:
        nothing_named = f"is_zeros([0:{2 * len(self.places)}])" if self.checked else ""
        inner = f"OPEN {INNER} RP"
        for alias in ("", ' " AS T1"'):
            self.add("from", f"{inner}{alias} subquery::_", _both(WITHIN, nothing_named))
        for limit in LIMITS:
            self.add("subquery", limit or '""')
        self.set_operations("subquery")
        for table in self.places:
            if self.checked:
                once = f"bit_clear({2 * table + 1})"
                unname, join = f"clear_bit({2 * table})", f"set_bit({2 * table + 1})"
            else:  # a counter of joins instead
                once, unname, join = f"lt([0:4], {MAX_JOINS})", "_", "incr([0:4])"
            # whether a table is the last is asked at the terminal before its name, or at the name: for alternatives that begin
            # with a rule, llguidance would expand the condition to find out what may be empty
            others = [self.not_awaited(other) for other in self.places if other != table] if self.checked else []
            for then, last in (("joins", []), ("done", others)):
                self.add("from", f"first{table}{then}::{unname}", once)
                self.add(f"first{table}{then}", f"{self.names.table(table)} {then}::{join}", _all(last))
                self.add("joins", f"JOIN next{table}{then}::{unname}", _all([once, *last]))
                self.add(f"next{table}{then}", f"{self.names.table(table)} on{then}::{join}")
                if self.checked:
                    self.using(table, f"next{table}{then}", f"{then}::{join}")
        for then in ("joins", "done"):
            self.on(f"on{then}", then)

    def using(self, table: int, rule: str, then: str) -> None:
        """`USING (column)` for a column that exactly one earlier table has; few tables may, else conditions grow long."""
        for terminal, owners in self.names.bare(table):
            others = sorted(owners - {table})
            one = [_all([self.is_joined(t), *(self.is_not_joined(s) for s in others if s != t)]) for t in others]
            if 0 < len(one) < 6:
                one = f"and({_any(one)}, bit_clear({UNORDERED}))"  # else a table around this SELECT may have the column
                self.add(rule, f'{self.names.table(table)} " USING" LP {terminal} RP {then}', one)

    def columns(self) -> None:
        for table in self.with_columns():
            here = self.is_joined(table) if self.checked else ""
            self.add("col", self.names.column(table), here)
            self.add("oncol", self.names.column(table), here)
            for terminal, owners in self.names.bare(table, keywords=self.names.full):
                others = sorted(owners - {table})
                alone = _all([self.is_joined(table), *(self.is_not_joined(other) for other in others)])
                self.add("col", terminal, alone if self.checked else "")
                if not others:
                    self.add("oncol", terminal, here)

    def set_operations(self, after: str) -> None:
        """Also `SELECT *` after `SELECT *` from the same tables: one, or two linked by a key. Its width is not known."""
        super().set_operations(after)
        size = len(self.places)
        for tables in [(table,) for table in self.places] + self.names.linked if self.checked else ():
            mine = sum(NAMED << 2 * table for table in tables)
            rule = "stars" + "x".join(map(str, tables))
            fits = _all([f"eq({COMMAS}, 7)", f"eq([0:{2 * size}], {mine << 1})", WITHIN])
            self.add(after, f"SETOP {rule}::bit_and({DEPTH_BITS:#x})", fits)
            barred = self.barred(set(self.places) - set(tables))
            self.rules.add(rule, f'"SELECT" {rule}all::incr({DEPTH})')
            self.rules.add(f"{rule}all", f'" *" all::bit_or({STAR | 1 << UNORDERED | mine | barred:#x})')


class _ByAlias(_Form):
    """Tables with aliases T1, T2 ...; each alias has some bits for its table, and one that says that FROM has yet to name it.

    In the SELECT list, a column after an alias decides the alias's table. If there are bits left, one per table says that the
    SELECT list has a column without alias that no other table has, so that FROM must name this table exactly once.
    """

    mark = "a"

    def __init__(self, rules: _Rules, names: _Names) -> None:
        super().__init__(rules, names)
        size = len(self.places)
        self.bits = size.bit_length()
        with_bare = min(MAX_ALIASES, (TABLE_BITS - size - 1) // (self.bits + 1))
        self.with_bare = with_bare >= 4
        self.aliases = range(with_bare if self.with_bare else min(MAX_ALIASES, TABLE_BITS // (self.bits + 1)))
        self.bare = size if self.with_bare else 0  # a bit: FROM has yet to name the table of a column without alias
        self.awaited = self.bare + self.with_bare  # bits: FROM has yet to name these aliases
        self.slots = self.awaited + len(self.aliases)

    def low(self, alias: int) -> int:
        """The first of the bits for an alias's table, whose value is 0 for none yet, else 1 + table."""
        return self.slots + alias * self.bits

    def bits_of(self, alias: int) -> str:
        return f"[{self.low(alias)}:{self.low(alias) + self.bits}]"

    def stands_for(self, alias: int, table: int) -> str:
        return f"eq({self.bits_of(alias)}, {table + 1})"

    def in_from(self, table: int) -> str:
        return _any([self.stands_for(alias, table) for alias in self.aliases])

    def has_columns(self) -> str:
        some = self.with_columns()
        if len(some) == len(self.places):
            return ""
        of = {alias: _any([self.stands_for(alias, table) for table in some]) for alias in self.aliases}
        # in ON, FROM has yet to name some of the aliases
        return _any([f"and(bit_clear({self.awaited + alias}), {known})" for alias, known in of.items()])

    def spare(self) -> str:
        free = _any([f"eq({self.bits_of(alias)}, 0)" for alias in self.aliases])
        return _both(free, _any([f"bit_clear({table})" for table in self.places]) if self.with_bare else "")

    def alias(self, alias: int) -> str:
        """The terminal of an alias with a full stop."""
        return self.names.terminal("ALIAS", rf"[Tt]{alias + 1}\.")

    def totals(self, aggregate: tuple[str, str, str]) -> list[tuple]:
        return super().totals(aggregate)[:1]  # the others, and those below, would double a grammar's compile time

    def made_of_columns(self, aggregate: tuple[str, str, str]) -> list[tuple]:
        return []

    def alone(self, table: int) -> Iterator[str]:
        """The terminals of a table's columns that no other table has."""
        return (terminal for terminal, owners in self.names.bare(table) if len(owners) == 1)

    def listed(self, then: str) -> Iterator[tuple[str, str]]:
        last, some = self.aliases[-1], self.with_columns()
        # a single table has an alias or none
        other = f"bit_clear({some[0]})" if self.with_bare and len(some) == 1 else ""
        for alias in self.aliases:
            rule = f"{then}of{alias}"
            kept = f"bit_clear({self.bare})" if self.with_bare and alias == last else ""
            yield f"{self.alias(alias)} {rule}::_", _both(kept, other)
            for table in self.with_columns():
                free = f"or(eq({self.bits_of(alias)}, 0), {self.stands_for(alias, table)})"
                free = _both(free, f"bit_clear({table})" if self.with_bare else "")
                decided = table + 1 << self.low(alias) | 1 << self.awaited + alias
                self.rules.add(rule, f"{self.names.behind(table)} {then}::bit_or({decided:#x})", free)
        named = f"[0:{self.bare}]"
        for table in self.places if self.with_bare else ():
            once = f"and(or(is_zeros({named}), eq({named}, {1 << table})), not({self.in_from(table)}))"
            once = f"and({once}, eq({self.bits_of(last)}, 0))"
            for terminal in self.alone(table):
                yield f"{terminal} {then}::bit_or({1 << table | 1 << self.bare:#x})", once

    def available(self, alias: int, table: int) -> str:
        """The condition that a table may take an alias: the alias is free, or the SELECT list used it for this table.

        The last alias is reserved for the table of a column without alias, if there is one.
        """
        free = f"eq({self.bits_of(alias)}, 0)"
        if alias == self.aliases[-1] and self.with_bare:
            free = f"and({free}, or(bit_clear({self.bare}), bit_set({table})))"
        return f"or({free}, and(bit_set({self.awaited + alias}), {self.stands_for(alias, table)}))"

    def from_clause(self) -> None:
        for table in self.places:
            written, some = self.names.table(table), _any([self.available(alias, table) for alias in self.aliases])
            once = f"or(bit_clear({table}), bit_set({self.bare}))" if self.with_bare else ""
            self.add("from", f"{written} afirst{table}::_", some)
            self.add("joins", f"JOIN anext{table}::_", _both(once, some))
            self.add(f"next{table}", f"{written} aother{table}::_")
            for alias in self.aliases:
                taken, available = f"bit_or({table + 1 << self.low(alias):#x})", self.available(alias, table)
                for place in ("first", "other"):
                    if not self.with_bare:
                        self.add(f"{place}{table}", f"{place}as{alias}::{taken}", available)
                        continue
                    self.add(f"{place}{table}", f"{place}as{alias}::{taken}", f"and(bit_clear({table}), {available})")
                    self.add(f"{place}{table}", f"{place}as{alias}bare::{taken}", f"and(bit_set({table}), {available})")
        for alias in self.aliases:
            called = self.names.terminal("AS", rf" (AS )?[Tt]{alias + 1}")
            for place, then in (("first", "ajoins"), ("other", "aon")):
                for which, found in (("", 0), ("bare", 1 << self.bare)) if self.with_bare else (("", 0),):
                    awaited = ~(found | 1 << self.awaited + alias) & 2**64 - 1
                    self.rules.add(f"{place}as{alias}{which}", f"{called} {then}::bit_and({awaited:#x})")
        self.on("on", "joins")
        self.add("joins", "adone::_", f"is_zeros([{self.bare}:{self.slots}])")

    def columns(self) -> None:
        for alias in self.aliases:
            known = _any([self.stands_for(alias, table) for table in self.with_columns()])
            self.add("col", f"{self.alias(alias)} acolof{alias}::_", known)
            joined = f"and(bit_clear({self.awaited + alias}), {known})"
            self.add("oncol", f"{self.alias(alias)} acolof{alias}::_", joined)
            for table in self.with_columns():
                self.add(f"colof{alias}", self.names.behind(table), self.stands_for(alias, table))
        for table in self.places:
            once = [
                _all([self.stands_for(a, table), *(f"not({self.stands_for(b, table)})" for b in self.aliases if b != a)])
                for a in self.aliases
            ]
            for terminal in self.alone(table):
                self.add("col", terminal, _any(once))


# ---------------------------------------------------------------------------------------------------------------------
# the command

FORMS = {True: "full names", False: "one spelling"}  # by `Schema.full_names`
WALK_SECONDS = 0.1  # for a random statement; many join tables without a condition
LONG = 120  # characters after which a walk ends as soon as it can
CHECK_SECONDS, TURN = 3.0, 50  # of `outside`


@dataclass(frozen=True)
class Refusal:
    """A gold statement that its grammar rejects: the part it accepts and the rest; `reason`: why there is no grammar."""

    example: Example
    accepted: str
    rest: str
    reason: str = ""


def compiled(vocabulary, lark: str):
    """llguidance's matcher of a grammar for an LLTokenizer. Raises ValueError, in one line, if it refuses the grammar."""
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(max_items_in_row=4 * MAX_NAMES)  # each table may stand where one is expected
    matcher = LLMatcher(vocabulary, LLMatcher.grammar_from_lark(lark), log_level=0, limits=limits)
    if matcher.is_error():
        raise ValueError(f"llguidance: {matcher.get_error().splitlines()[0]}")  # further lines repeat the whole grammar
    return matcher


class Matchers:
    """llguidance's matchers for databases' grammars, with bytes as tokens, each compiled once.

    Raises UserError where llguidance is not installed.
    """

    def __init__(self) -> None:
        try:
            from llguidance import LLTokenizer
        except ImportError:
            raise UserError("llguidance is not installed, which reads the grammar: pip install llguidance==1.9.1") from None
        self._bytes = LLTokenizer("byte")
        self._compiled: dict[Schema, object] = {}

    def matcher(self, schema: Schema):
        """A matcher at the start of a statement. Raises ValueError for a schema without grammar."""
        if schema not in self._compiled:
            self._compiled[schema] = compiled(self._bytes, grammar(schema))
        return self._compiled[schema].deep_copy()

    def accepted(self, sql: str, schema: Schema) -> tuple[bool, int]:
        """Whether the grammar accepts a statement, and how many of its characters are the beginning of an accepted one."""
        matcher, text = self.matcher(schema), list(f" {sql}".encode())
        taken = matcher.validate_tokens(text)
        whole = taken == len(text) and matcher.consume_tokens(text) and matcher.is_accepting()
        return whole, max(0, len(bytes(text[:taken]).decode(errors="ignore")) - 1)

    def walk(self, schema: Schema, rng: random.Random) -> str:
        """A random statement: uniform over permitted bytes, with exceptions that keep texts, numbers and the whole short."""
        matcher, written = self.matcher(schema), bytearray()
        while True:
            mask = int.from_bytes(matcher.compute_bitmask(), "little")
            allowed = [byte for byte in range(256) if mask >> byte & 1]
            quoted = re.sub(rb'"[^"]*("|$)', b"", written).count(b"'") % 2 == 1  # names in double quotes may hold one
            if matcher.is_accepting() and (not allowed or rng.random() < (0.5 if len(written) < LONG else 1)):
                return written.decode().strip()
            if quoted:
                allowed = [byte for byte in allowed if chr(byte) in "'abcxyz%_ "]
            elif written.endswith(b"'"):  # the quote closes the text: do not double it
                allowed = [byte for byte in allowed if byte != ord("'")]
            closing = [byte for byte in allowed if byte in b"')"]
            if closing and (rng.random() < 0.3 or len(written) > LONG):
                allowed = closing
            elif not quoted and rng.random() < 0.7:  # fewer brackets, lists and numbers, which would be most of it otherwise
                allowed = [byte for byte in allowed if byte not in b"(,0123456789"] or allowed
            byte = rng.choice(allowed)
            matcher.consume_token(byte)
            written.append(byte)


def judged(
    examples: Iterable[Example], schemas: dict[str, Schema], matchers: Matchers, full_names: bool | None = None
) -> Iterator[Refusal | None]:
    """For each example in turn why its database's grammar rejects its SQL; None where it is accepted.

    `full_names` puts it into one of the two spellings; None takes it as it stands, for the spelling of `schemas`.
    """
    known: dict[tuple[str, str], tuple[bool, int, str]] = {}
    for example in examples:
        schema = schemas[example.db_id]
        if full_names is None:
            sql = target(example.sql)
        else:
            schema = replace(schema, full_names=full_names)
            sql = spelled(example.sql, schema)
        if (schema.db_id, sql) not in known:
            try:
                known[schema.db_id, sql] = (*matchers.accepted(sql, schema), "")
            except ValueError as error:
                known[schema.db_id, sql] = False, 0, str(error)
        whole, taken, reason = known[schema.db_id, sql]
        yield None if whole else Refusal(example, sql[:taken], sql[taken:], reason)


def refusals(examples: Iterable[Example], schemas: dict[str, Schema], full_names: bool, matchers: Matchers) -> list[Refusal]:
    """The examples whose gold, in one of the two spellings, their database's grammar rejects."""
    return [refusal for refusal in judged(examples, schemas, matchers, full_names) if refusal]


def outside(
    examples: Sequence[Example], schemas: dict[str, Schema], full_names: bool | None = None, seconds: float = CHECK_SECONDS
) -> tuple[list[Refusal], int]:
    """-> the examples whose SQL the grammars reject, and how many were looked at; `full_names` as for `judged`.

    After some `seconds` of processor time the rest is not looked at: examples come in a random order, TURN of a database, then
    TURN of the next, since a grammar takes as long to compile as some hundred statements to check. Where there is no grammar,
    or no llguidance, nothing is rejected.
    """
    try:
        matchers = Matchers()
    except UserError:
        return [], 0
    groups: dict[str, list[Example]] = {}
    for example in random.Random(0).sample(examples, len(examples)):
        groups.setdefault(example.db_id, []).append(example)
    turns = range(0, max(map(len, groups.values())), TURN)
    order = (example for turn in turns for group in groups.values() for example in group[turn : turn + TURN])
    found, looked, end = [], 0, time.process_time() + seconds
    for refusal in judged(order, schemas, matchers, full_names):
        looked += 1
        found += [refusal] if refusal and not refusal.reason else []
        if time.process_time() > end:
            break
    return found, looked


def outside_line(found: Sequence[Refusal], looked: int, count: int, what: str) -> str:
    """What `outside` found among `count` examples: how many, where the shortest of them leaves the grammar, what to do."""
    short = min(found, key=lambda refusal: len(refusal.accepted + refusal.rest))
    accepted, rest = (" ".join(part.split()) for part in (short.accepted, short.rest))
    shown = f"{'...' * (len(accepted) > 60)}{accepted[-60:]} >>> {rest[:40] or '(goes on)'}{'...' * (len(rest) > 40)}".strip()
    some = f"{looked:,} {what}" if looked == count else f"{looked:,} {what} looked at (of {count:,})"
    where = f"outside the grammar that answers are held to, as {shown}"
    return printable(f"{len(found):,} of {some} are {where}: --no-constrained answers freely")


def outside_lines(examples: Sequence[Example], schemas: dict[str, Schema]) -> list[str]:
    """For `data.spider`: a line if the grammars, with full names, reject some of a split's gold."""
    found, looked = outside(examples, schemas, full_names=True)
    return [outside_line(found, looked, len(examples), "gold statements")] if found else []


def walked(
    databases: dict[Path, Schema], count: int, matchers: Matchers, seed: int = 0
) -> list[tuple[str, str, str, str | None, str]]:
    """Run `count` random statements, spread over databases and spellings.

    Each row is (db_id, spelling, SQL, class of `data.sqlite.execute.ERROR_CLASSES` or None, message).
    """
    rng = random.Random(seed)
    whole = [(path, replace(schema, full_names=full)) for path, schema in databases.items() for full in FORMS]
    usable = []
    for path, schema in whole:
        try:
            matchers.matcher(schema)
        except ValueError:
            continue
        usable.append((path, schema))
    jobs = [usable[i % len(usable)] for i in range(count)] if usable else []
    statements = [matchers.walk(schema, rng) for _, schema in jobs]
    with Executor(seconds=WALK_SECONDS) as executor:
        results = executor.run([(path, sql) for (path, _), sql in zip(jobs, statements)], progress=True, keep=0)
    return [
        (schema.db_id, FORMS[schema.full_names], sql, result.error, result.message)
        for (_, schema), sql, result in zip(jobs, statements, results)
    ]


def walk_report(rows: Sequence[tuple[str, str, str, str | None, str]]) -> list[str]:
    """Lines that say how many random statements run, and which errors others give, each with an example."""
    failing = [row for row in rows if row[3] not in (None, TIMED_OUT)]
    running = len(rows) - len(failing)
    stopped = sum(row[3] == TIMED_OUT for row in rows)
    share = _share(running, len(rows))
    lines = [f"walked: {running:,} of {len(rows):,} statements run ({share}), {stopped:,} of them until {WALK_SECONDS:g} s"]
    # messages that differ only in names and numbers are one kind
    kinds = Counter(re.sub(r"(?<=: )\S.*|\d+", "...", explained(error, message)) for *_, error, message in failing)
    for kind, number in kinds.most_common():
        db_id, form, sql, error, message = next(
            row for row in failing if re.sub(r"(?<=: )\S.*|\d+", "...", explained(row[3], row[4])) == kind
        )
        lines.append(f"  {number:,} of {kind}, as {explained(error, message)} ({db_id}, {form}): {sql}")
    return lines


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "-"


def check(root: Path, walk: int = 0) -> Iterator[str]:
    """The output of the command for a directory, line by line. Raises UserError for a directory without any split."""
    matchers, databases = Matchers(), {}
    for split in splits_in(root):
        path, tables, folder = files_of(root, split)
        schemas = read_schemas(tables)
        examples = read_examples([path], schemas)
        for full_names, form in FORMS.items():
            found = refusals(examples, schemas, full_names, matchers)
            count = len(examples) - len(found)
            yield f"{split}, {form}: {count:,} of {len(examples):,} gold statements accepted ({_share(count, len(examples))})"
            for refusal in found:
                place = refusal.reason or f"{refusal.accepted} >>> {refusal.rest or '(goes on)'}"
                yield f"  example {refusal.example.index} ({refusal.example.db_id}): {place}"
        for db_id in sorted({example.db_id for example in examples}):
            path = database_file(folder, db_id)
            if path.is_file() and schemas[db_id] not in databases.values():
                databases[path] = schemas[db_id]
    if walk:
        yield from walk_report(walked(databases, walk, matchers))


def main() -> None:
    parser = command_parser("grammar", __doc__)
    parser.add_argument("--data", metavar="DIR", required=True, help="directory in Spider's layout, or `sample`")
    parser.add_argument("--walk", type=int, default=0, metavar="N", help="also write and run N statements at random")
    args = parser.parse_args()
    if args.walk < 0:
        raise UserError("--walk has to be 0 or more")
    for line in check(directory_of(args.data), args.walk):
        print(printable(line), flush=True)
