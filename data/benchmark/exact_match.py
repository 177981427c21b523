"""Spider's exact set match, partial scores and hardness.

Exact set match (Yu et al., 2018, https://arxiv.org/abs/1809.08887, section 6) compares two queries clause by clause, each as
a set, with values left out. Published figures come from one program, the official scorer
(https://github.com/taoyds/spider and https://github.com/taoyds/test-suite-sql-eval), so its reading of SQL is part of the
metric. It knows the dialect in which Spider's gold is written; a prediction outside it never matches, even with right rows:

- Words are separated by white space, brackets of all kinds, and `, : ; < > ! ? * @ # $ % &`, `--` and the backtick, but not
  by `=`: `a = 1` and `a<1` can be read, `a=1` and `<>` cannot. A comma or colon before a digit does not separate. Single and
  double quotes are the same, and have no escapes.
- Tables are joined by JOIN alone (no comma, INNER, LEFT), and take an alias only with AS; aliases hold for the whole
  statement, the last one of a name wins, and none may have the name of a table. A selected expression has no alias.
- A condition is `[NOT] operator value` with one value: no list after IN, no parentheses around conditions, no IS NULL, no
  CASE, WITH, window, function other than the five aggregates, nor arithmetic beyond one operator between two columns.
- The right side of a comparison is a value even if it is a column, so it is left out, with all up to the next AND or clause.
- A bare column belongs to the first table of its FROM that has it. What follows a complete query is ignored.

The functions below say what is compared, and where the official scorer simplifies. Three differences from it are intended:
the word "value" is not replaced in predictions, a query that selects from two subqueries does not raise, and comments are
not part of a query.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from data.benchmark.prompt import target
from data.benchmark.schema import Schema

HARDNESS = ("easy", "medium", "hard", "extra")
CLAUSES = (
    *("select", "select (no aggregate)", "where", "where (no operator)", "group by (no having)"),
    *("group by", "order by", "and/or", "set operations", "keywords"),
)

AGGREGATES = {"max", "min", "count", "sum", "avg"}
ARITHMETIC = {"-", "+", "*", "/"}
OPERATORS = {"between", "=", ">", "<", ">=", "<=", "!=", "in", "like", "is", "exists"}
SET_OPERATIONS = ("intersect", "union", "except")
CLAUSE_WORDS = {"select", "from", "where", "group", "order", "limit", *SET_OPERATIONS}
JOIN_WORDS = {"join", "on", "as"}
END = {*CLAUSE_WORDS, ")", ";"}
MAX_DEPTH = 40  # of nested and chained queries; Spider's gold has 3
MAX_CHARS = 20_000  # of a statement; Spider's longest gold has 608


class NotSpiderSql(ValueError):
    """A text that is not a query of Spider's dialect."""


@dataclass(frozen=True)
class Column:
    """A column as `table.column` (lower case), or `*`."""

    aggregate: str | None
    name: str
    distinct: bool | None


@dataclass(frozen=True)
class Expression:
    """A column, or two with an arithmetic operator between them."""

    left: Column
    operator: str | None = None
    right: Column | None = None


@dataclass(frozen=True)
class Condition:
    """`value` and `upper` (of BETWEEN) are a Query, a Column, a number or a string; None once values are left out."""

    negated: bool
    operator: str
    expression: Expression
    value: object
    upper: object = None


@dataclass(frozen=True)
class Conditions:
    """Conditions and the words `and`, `or` between them."""

    units: tuple[Condition, ...] = ()
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Query:
    """One SELECT, with at most one set operation and the query that follows it."""

    distinct: bool | None
    select: tuple[tuple[str | None, Expression], ...]  # (aggregate, expression)
    tables: tuple[object, ...]  # names and Querys
    joins: Conditions
    where: Conditions
    group: tuple[Column, ...]
    having: Conditions
    direction: str | None  # of ORDER BY: the last one given
    order: tuple[Expression, ...]
    limited: bool
    operation: str | None = None
    other: "Query | None" = None


EMPTY = Query(None, (), (), Conditions(), Conditions(), (), Conditions(), None, (), False)  # of what cannot be read


class SqlSchema:
    """A schema as the comparison needs it: names in lower case, and foreign keys' columns mapped to one of them."""

    def __init__(self, schema: Schema) -> None:
        self.columns: dict[str, set[str]] = {table.lower(): set() for table in schema.tables}
        names = ["*"] * len(schema.columns)
        for index, (table, column) in enumerate(schema.columns):
            if table >= 0:
                names[index] = f"{schema.tables[table].lower()}.{column.lower()}"
                self.columns[schema.tables[table].lower()].add(column.lower())
        # as in the official scorer, a pair joins the first group with either column, and no pair merges two groups
        groups: list[set[int]] = []
        for pair in schema.foreign_keys:
            group = next((group for group in groups if not group.isdisjoint(pair)), None)
            if group is None:
                groups.append(group := set())
            group.update(pair)
        self.same_as: dict[str, str] = {}
        for group in groups:
            self.same_as.update((names[column], names[min(group)]) for column in group)


def tokens(sql: str) -> list[str]:
    """The words of a statement, in lower case except in quotes; strings in double quotes.

    Raises NotSpiderSql where a quote is not closed, and for more than MAX_CHARS characters.
    """
    if len(sql) > MAX_CHARS:
        raise NotSpiderSql(f"more than {MAX_CHARS} characters")
    pieces = sql.replace("'", '"').split('"')
    if len(pieces) % 2 == 0:
        raise NotSpiderSql("a quote is not closed")
    # strings become words without quotes or spaces, which join adjacent text as any word does
    strings = {f"\0{index}\0": f'"{text}"' for index, text in enumerate(pieces[1::2])}
    text = "".join(f"\0{index // 2}\0" if index % 2 else piece.replace("\0", " ") for index, piece in enumerate(pieces))
    text = re.sub(r"([:,])(?=\D|$)|([;@#$%&?!*\[\](){}<>]|`+|--|\.{2,}|(?<=[^.])\.(?=[\])}>]*\s*$))", r" \1\2 ", text)
    words: list[str] = []
    for word in text.lower().split():
        if word == "=" and words and words[-1] in {"!", ">", "<"}:
            words[-1] += "="
        else:
            words.append(strings.get(word, word))
    return words


def parse(schema: SqlSchema, sql: str) -> Query:
    """Read a query of Spider's dialect. Raises NotSpiderSql for any other text."""
    words = tokens(target(sql))
    try:
        return _Parser(schema, words).query(0, 0)[1]
    except (IndexError, KeyError) as error:
        raise NotSpiderSql(f"the query ends early or names what the schema lacks ({error})") from None


class _Parser:
    """A recursive-descent parser; methods take a position and return (the position after what they read, what they read)."""

    def __init__(self, schema: SqlSchema, words: list[str]) -> None:
        self.schema, self.words = schema, [*words, ""]  # "" at the end makes it safe to look one word ahead
        self.names: dict[str, str] = {}  # alias or table -> the word before AS, normally a table
        if words[-1:] == ["as"]:
            raise NotSpiderSql("no alias after AS")
        for position, word in enumerate(words):
            if word == "as" and position:
                self.names[words[position + 1]] = words[position - 1]
        for table in schema.columns:
            if table in self.names:
                raise NotSpiderSql(f"the alias {table} is the name of a table")
            self.names[table] = table

    def expect(self, at: int, word: str) -> int:
        if self.words[at] != word:
            raise NotSpiderSql(f"{word!r} expected at {self.words[at]!r}")
        return at + 1

    def query(self, at: int, depth: int) -> tuple[int, Query]:
        if depth > MAX_DEPTH:
            raise NotSpiderSql("too many nested queries")
        block = self.words[at] == "("
        at += block
        try:
            start = self.words.index("from", at) + 1
        except ValueError:
            raise NotSpiderSql("no FROM") from None
        end, tables, joins = self.from_(start, depth)
        scope = [table for table in tables if isinstance(table, str)]
        distinct, select = self.select(at, scope)
        at, where = self.conditions_after("where", end, scope, depth)
        at, group = self.group(at, scope)
        at, having = self.conditions_after("having", at, scope, depth)
        at, direction, order = self.order(at, scope)
        limited = self.words[at] == "limit"
        if limited and not self.words[at + 1]:
            raise NotSpiderSql("no number after LIMIT")
        at = self.skip_semicolons(at + 2 * limited)
        if block:
            at = self.skip_semicolons(self.expect(at, ")"))
        query = Query(distinct, select, tables, joins, where, group, having, direction, order, limited)
        if self.words[at] in SET_OPERATIONS:
            operation = self.words[at]
            at, other = self.query(at + 1, depth + 1)
            query = replace(query, operation=operation, other=other)
        return at, query

    def skip_semicolons(self, at: int) -> int:
        while self.words[at] == ";":
            at += 1
        return at

    def from_(self, at: int, depth: int) -> tuple[int, tuple, Conditions]:
        tables: list[object] = []
        units: list[Condition] = []
        words: list[str] = []
        while self.words[at]:
            block = self.words[at] == "("
            at += block
            if self.words[at] == "select":
                at, table = self.query(at, depth + 1)
            else:
                at += self.words[at] == "join"
                table = self.names[self.words[at]]
                if table not in self.schema.columns:
                    raise NotSpiderSql(f"{table!r} is no table")
                at += 3 if self.words[at + 1] == "as" else 1
            tables.append(table)
            if self.words[at] == "on":
                scope = [table for table in tables if isinstance(table, str)]
                at, conditions = self.conditions(at + 1, scope, depth)
                words += ["and"] * bool(units)
                units += conditions.units
                words += conditions.words
            if block:
                at = self.expect(at, ")")
            if self.words[at] in END:
                break
        return at, tuple(tables), Conditions(tuple(units), tuple(words))

    def select(self, at: int, scope: list[str]) -> tuple[bool, tuple[tuple[str | None, Expression], ...]]:
        at = self.expect(at, "select")
        distinct = self.words[at] == "distinct"
        at += distinct
        selected = []
        while self.words[at] not in CLAUSE_WORDS:
            aggregate = self.words[at] if self.words[at] in AGGREGATES else None
            at, expression = self.expression(at + bool(aggregate), scope)
            selected.append((aggregate, expression))
            at += self.words[at] == ","
        return distinct, tuple(selected)

    def expression(self, at: int, scope: list[str]) -> tuple[int, Expression]:
        block = self.words[at] == "("
        at, left = self.column(at + block, scope)
        operator = right = None
        if self.words[at] in ARITHMETIC:
            operator = self.words[at]
            at, right = self.column(at + 1, scope)
        if block:
            at = self.expect(at, ")")
        return at, Expression(left, operator, right)

    def column(self, at: int, scope: list[str]) -> tuple[int, Column]:
        block = self.words[at] == "("
        at += block
        aggregate = self.words[at] if self.words[at] in AGGREGATES else None
        if aggregate:
            at = self.expect(at + 1, "(")
        distinct = self.words[at] == "distinct"
        at += distinct
        column = Column(aggregate, self.name(self.words[at], scope), distinct)
        at += 1
        if aggregate or block:  # brackets around an aggregate stay open, and so fail later
            at = self.expect(at, ")")
        return at, column

    def name(self, word: str, scope: list[str]) -> str:
        """The `table.column` that a word names."""
        if word == "*":
            return word
        if "." in word:
            alias, _, column = word.partition(".")
            tables = [self.names[alias]]
        else:
            column, tables = word, scope
        for table in tables:
            if column in self.schema.columns[table]:
                return f"{table}.{column}"
        raise NotSpiderSql(f"{word!r} is no column")

    def conditions_after(self, word: str, at: int, scope: list[str], depth: int) -> tuple[int, Conditions]:
        return self.conditions(at + 1, scope, depth) if self.words[at] == word else (at, Conditions())

    def conditions(self, at: int, scope: list[str], depth: int) -> tuple[int, Conditions]:
        units: list[Condition] = []
        words: list[str] = []
        while self.words[at]:
            at, expression = self.expression(at, scope)
            negated = self.words[at] == "not"
            at += negated
            operator = self.words[at]
            if operator not in OPERATORS:
                raise NotSpiderSql(f"{operator!r} is no operator")
            at, value = self.value(at + 1, scope, depth)
            upper = None
            if operator == "between":
                at, upper = self.value(self.expect(at, "and"), scope, depth)
            units.append(Condition(negated, operator, expression, value, upper))
            if self.words[at] in END or self.words[at] in JOIN_WORDS:
                break
            if self.words[at] in {"and", "or"}:
                words.append(self.words[at])
                at += 1
            elif self.words[at]:
                raise NotSpiderSql(f"{self.words[at]!r} after a condition")
        return at, Conditions(tuple(units), tuple(words))

    def value(self, at: int, scope: list[str], depth: int) -> tuple[int, object]:
        block = self.words[at] == "("
        at += block
        if self.words[at] == "select":
            at, value = self.query(at, depth + 1)
        elif '"' in self.words[at]:
            at, value = at + 1, self.words[at]
        else:
            try:
                at, value = at + 1, float(self.words[at])
            except ValueError:
                if block:
                    raise NotSpiderSql("a column in parentheses as a value") from None
                distinct = self.words[at] == "distinct"
                at, value = at + distinct, Column(None, self.name(self.words[at + distinct], scope), distinct)
                stop = {",", ")", "and", "", *CLAUSE_WORDS, *JOIN_WORDS}
                while self.words[at] not in stop:
                    at += 1
        if block:
            at = self.expect(at, ")")
        return at, value

    def group(self, at: int, scope: list[str]) -> tuple[int, tuple[Column, ...]]:
        columns: list[Column] = []
        if self.words[at] == "group":
            at = self.expect(at + 1, "by")
            while self.words[at] and self.words[at] not in END:
                at, column = self.column(at, scope)
                columns.append(column)
                if self.words[at] != ",":
                    break
                at += 1
        return at, tuple(columns)

    def order(self, at: int, scope: list[str]) -> tuple[int, str | None, tuple[Expression, ...]]:
        if self.words[at] != "order":
            return at, None, ()
        at, direction, expressions = self.expect(at + 1, "by"), "asc", []
        while self.words[at] and self.words[at] not in END:
            at, expression = self.expression(at, scope)
            expressions.append(expression)
            if self.words[at] in {"asc", "desc"}:
                direction = self.words[at]
                at += 1
            if self.words[at] != ",":
                break
            at += 1
        return at, direction, tuple(expressions)


def without_values(query: Query) -> Query:
    """Remove the values of conditions, also in nested queries, but not in a subquery of FROM."""

    def strip(conditions: Conditions) -> Conditions:
        units = (replace(unit, value=kept(unit.value), upper=kept(unit.upper)) for unit in conditions.units)
        return replace(conditions, units=tuple(units))

    def kept(value: object) -> Query | None:
        return without_values(value) if isinstance(value, Query) else None

    return replace(
        query,
        joins=strip(query.joins),
        where=strip(query.where),
        having=strip(query.having),
        other=query.other and without_values(query.other),
    )


def unified(schema: SqlSchema, query: Query) -> Query:
    """Replace each column of a foreign-key group by the group's first, and remove DISTINCT.

    This affects only columns of tables in the outermost FROM, and only outside nested queries; queries that follow a set
    operation are treated with the tables of the first query.
    """
    valid = {table for table in query.tables if isinstance(table, str)}

    def column(old: Column | None) -> Column | None:
        if old is None:
            return None
        name = schema.same_as.get(old.name, old.name) if old.name.partition(".")[0] in valid else old.name
        return Column(old.aggregate, name, None)

    def expression(old: Expression) -> Expression:
        return Expression(column(old.left), old.operator, column(old.right))

    def conditions(old: Conditions) -> Conditions:
        return replace(old, units=tuple(replace(unit, expression=expression(unit.expression)) for unit in old.units))

    def whole(old: Query) -> Query:
        return replace(
            old,
            distinct=None,
            select=tuple((aggregate, expression(unit)) for aggregate, unit in old.select),
            joins=conditions(old.joins),
            where=conditions(old.where),
            group=tuple(column(unit) for unit in old.group),
            having=conditions(old.having),
            order=tuple(expression(unit) for unit in old.order),
            other=old.other and whole(old.other),
        )

    return whole(query)


def comparable(schema: SqlSchema, sql: str) -> Query:
    """Parse a query and prepare it for comparison; EMPTY where it cannot be read."""
    try:
        return unified(schema, without_values(parse(schema, sql)))
    except NotSpiderSql:
        return EMPTY


def partial_scores(gold: Query, predicted: Query) -> dict[str, tuple[bool, int, int]]:
    """For each of CLAUSES: (whether it matches, number of its parts in the prediction, and in the gold)."""

    def bag(pairs: Iterable, others: Iterable) -> tuple[bool, int, int]:
        left, right = Counter(pairs), Counter(others)
        return left == right, left.total(), right.total()

    def whole(has: bool, gold_has: bool, equal: bool) -> tuple[bool, int, int]:
        return has == gold_has and (equal or not has), int(has), int(gold_has)

    def bare_names(query: Query) -> list[str]:
        return [column.name.partition(".")[2] or column.name for column in query.group]

    def grouping(query: Query) -> tuple:
        return [column.name for column in query.group], query.having

    def ordering(query: Query) -> tuple:
        return query.direction, query.order, query.limited

    words, gold_words = set(predicted.where.words), set(gold.where.words)
    same_words = words == gold_words
    operation = (predicted.operation == gold.operation) and (not gold.other or exact(gold.other, predicted.other))
    return {
        "select": bag(predicted.select, gold.select),
        "select (no aggregate)": bag((unit for _, unit in predicted.select), (unit for _, unit in gold.select)),
        "where": bag(predicted.where.units, gold.where.units),
        "where (no operator)": bag((u.expression for u in predicted.where.units), (u.expression for u in gold.where.units)),
        "group by (no having)": bag(bare_names(predicted), bare_names(gold)),
        "group by": whole(bool(predicted.group), bool(gold.group), grouping(predicted) == grouping(gold)),
        "order by": whole(bool(predicted.order), bool(gold.order), ordering(predicted) == ordering(gold)),
        "and/or": (same_words, 1, 1) if same_words else (False, len(words), len(gold_words)),
        "set operations": (operation, int(bool(predicted.other)), int(bool(gold.other))),
        "keywords": bag(keywords(predicted), keywords(gold)),
    }


def exact(gold: Query, predicted: Query) -> bool:
    """Exact set match of two comparable queries: all partial scores match, and the tables are the same."""
    if not all(match for match, _, _ in partial_scores(gold, predicted).values()):
        return False
    return not gold.tables or Counter(gold.tables) == Counter(predicted.tables)


def keywords(query: Query) -> set[str]:
    """The keywords that are compared."""
    conditions = (query.joins, query.where, query.having)
    units = [unit for part in conditions for unit in part.units]
    present = {
        "where": query.where.units,
        "group": query.group,
        "having": query.having.units,
        "order": query.order,
        "limit": query.limited,
        "or": any("or" in part.words for part in conditions),
        "not": any(unit.negated for unit in units),
        "in": any(unit.operator == "in" for unit in units),
        "like": any(unit.operator == "like" for unit in units),
    }
    return {word for word, there in present.items() if there} | ({query.direction, query.operation} - {None})


def query_hardness(query: Query) -> str:
    """One of HARDNESS, by the official scorer's counts.

    As in that scorer, a NOT in WHERE or HAVING and an AND or OR in HAVING count as aggregates, while aggregates in WHERE
    or HAVING conditions do not.
    """
    conditions = (query.joins, query.where, query.having)
    units = [unit for part in conditions for unit in part.units]
    words = [word for part in conditions for word in part.words]
    first = sum(map(bool, (query.where.units, query.group, query.order, query.limited)))
    first += max(len(query.tables) - 1, 0) + words.count("or") + sum(unit.operator == "like" for unit in units)
    nested = sum(isinstance(value, Query) for unit in units for value in (unit.value, unit.upper))
    second = nested + (query.other is not None)
    aggregates = sum(aggregate is not None for aggregate, _ in query.select)
    aggregates += sum(unit.negated for unit in (*query.where.units, *query.having.units)) + len(query.having.words)
    columns = [*query.group, *(column for unit in query.order for column in (unit.left, unit.right) if column)]
    aggregates += sum(column.aggregate is not None for column in columns)
    others = (aggregates > 1) + (len(query.select) > 1) + (len(query.where.units) > 1) + (len(query.group) > 1)
    if first <= 1 and not others and not second:
        return "easy"
    if not second and (others <= 2 and first <= 1 or others < 2 and first <= 2):
        return "medium"
    if not second and (others > 2 and first <= 2 or others <= 2 and 2 < first <= 3):
        return "hard"
    if first <= 1 and not others and second <= 1:
        return "hard"
    return "extra"


def hardness(schema: SqlSchema, sql: str) -> str:
    """The hardness of a gold query; `extra` where it cannot be read."""
    try:
        return query_hardness(parse(schema, sql))
    except NotSpiderSql:
        return "extra"
