"""The prompt byte for byte, how it gets shorter, and how SQL is taken out of what a model writes."""

import json
import random
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from data.benchmark.prompt import LINKED, clean_sql, fit, one_line, prompt, question_first, schema_first, target
from data.benchmark.schema import Schema
from data.benchmark.spider import parse_schema, read_schemas

FIXTURE = Path(__file__).parent / "fixtures" / "school_player.json"
QUESTION = "What is the average enrollment of schools?"
GOLDEN = """\
What is the average enrollment of schools?
db_id:school_player
Table player, columns = [*,Player_ID,Player,Team,Age,Position,School_ID]
Table school, columns = [*,School_ID,School,Location,Enrollment,Founded,Denomination,Boys_or_Girls,Day_or_Boarding,\
Year_Entered_Competition,School_Colors]
Table school_details, columns = [*,School_ID,Nickname,Colors,League,Class,Division]
Table school_performance, columns = [*,School_Id,School_Year,Class_A,Class_AA]

foreign key:[school_details.School_ID = school.School_ID,school_performance.School_Id = school.School_ID,\
player.School_ID = school.School_ID]
primary key:[school.School_ID,school_details.School_ID,school_performance.School_Id,player.Player_ID]"""


@pytest.fixture(scope="module")
def school() -> Schema:
    return read_schemas(FIXTURE)["school_player"]


def make_schema(tables: dict[str, list[str]], primary: list, foreign: list[list[int]]) -> Schema:
    """A schema as it is read from an entry of tables.json; keys count columns from 1."""
    columns = [[-1, "*"], *([i, name] for i, names in enumerate(tables.values()) for name in names)]
    entry = dict(
        db_id="shop",
        table_names_original=list(tables),
        column_names_original=columns,
        column_types=["text"] * len(columns),
        primary_keys=primary,
        foreign_keys=foreign,
    )
    return parse_schema(json.loads(json.dumps(entry)), Path("tables.json"), 0)


# ------------------------------------------------------------------------------------------------------------ wording


def test_the_golden_prompt(school):
    assert prompt(QUESTION, school) == GOLDEN
    assert target("SELECT avg(Enrollment) FROM school") == "SELECT avg(Enrollment) FROM school"


def test_columns_stand_as_sql_writes_them_where_it_is_asked_for(school):
    team = [name for _, name in school.columns].index("Team")
    said = prompt(QUESTION, replace(school, full_names=True), [dict(column=team, text="Reds")])
    assert "Table player, columns = [ * , player.Player_ID , player.Player , player.Team ( 'Reds' ) , player.Age ," in said
    keys = [line.replace("[", "[ ").replace(",", " , ").replace("]", " ]") for line in GOLDEN.splitlines()[-2:]]
    assert said.splitlines()[-2:] == keys


def test_tables_stand_in_alphabetical_order_whatever_their_case():
    schema = make_schema({"beta": ["x"], "Alpha": ["y"], "alpha_2": ["z"], "Gamma": ["w"]}, [], [])
    lines = prompt("?", schema).splitlines()[2:6]
    assert [line.split(",")[0] for line in lines] == ["Table Alpha", "Table alpha_2", "Table beta", "Table Gamma"]


def test_columns_and_keys_keep_the_order_of_the_file_and_composite_keys_are_flattened():
    schema = make_schema({"b": ["z", "a"], "a": ["y", "c"]}, [[4, 1], 2], [[3, 2], [1, 4]])
    assert prompt("How many?", schema) == (
        "How many?\ndb_id:shop\nTable a, columns = [*,y,c]\nTable b, columns = [*,z,a]\n\n"
        "foreign key:[a.y = b.a,b.z = a.c]\nprimary key:[a.c,b.z,b.a]"
    )


def test_without_keys_the_headings_stay():
    assert prompt("?", make_schema({"a": ["b"]}, [], [])).endswith("\n\nforeign key:[]\nprimary key:[]")


def test_a_question_of_several_lines_stays_one_line(school):
    assert prompt(" What is the\naverage\tenrollment of  schools? ", school) == GOLDEN


NAMES = {
    "order": '"order"',
    "Home Town": '"Home Town"',
    "a,b": '"a,b"',
    "[x]": '"[x]"',
    'say "hi"': '"say ""hi"""',
    "it's": '"it\'s"',
    "2nd": '"2nd"',
    "Total (%)": '"Total (%)"',
    "two\nlines": '"two lines"',
    "Größe": "Größe",
    "客户名称": "客户名称",
    "ลูกค้า": "ลูกค้า",
    "价格(元)": '"价格(元)"',
    "count": "count",
    "_x1": "_x1",
    "with": '"with"',
}


@pytest.mark.parametrize("full_names", [False, True])
def test_names_stand_as_an_answer_has_to_write_them(full_names):
    schema = replace(
        make_schema({"group": list(NAMES), "plain": ["a", "b"]}, [1, len(NAMES) + 1], [[len(NAMES) + 1, 2]]),
        full_names=full_names,
    )
    said = prompt("?", schema).splitlines()
    own = [f'"group".{written}' if full_names else written for written in NAMES.values()]
    mark = " , " if full_names else ","
    assert f'Table "group", columns = [*{mark}{mark.join(own)}]'.replace(" ", "") == said[2].replace(" ", "")
    assert said[-2].replace(" ", "") == 'foreignkey:[plain.a="group"."HomeTown"]'
    assert said[-1].replace(" ", "") == 'primarykey:["group"."order",plain.a]'
    with closing(sqlite3.connect(":memory:")) as connection:
        kept = [(text, written) for text, written in NAMES.items() if "\n" not in text]
        columns = ", ".join('"' + text.replace('"', '""') + '"' for text, _ in kept)
        connection.execute(f'CREATE TABLE "group" ({columns})')
        found = connection.execute(f'SELECT {", ".join(written for _, written in kept)} FROM "group"').description
    assert [column[0] for column in found] == [text for text, _ in kept]


# ------------------------------------------------------------------------------------------------ columns behind a question


def linked(question: str, schema: Schema, *how) -> list[str]:
    """The columns behind a question."""
    lines = [line for line in schema_first(question, schema, *how)[1].splitlines() if line.startswith("columns:[")]
    return [name.strip() for line in lines for name in line.removeprefix("columns:[").removesuffix("]").split(",")]


def test_columns_that_share_words_with_a_question_stand_behind_it(school):
    first, second = schema_first(QUESTION, school)
    assert first == GOLDEN.removeprefix(QUESTION + "\n") + "\n"  # the same for every question
    assert second == (
        f"{QUESTION}\ncolumns:[school.School,school.Enrollment,school.School_ID,school.School_Colors,"
        "school_details.School_ID,school_performance.School_Id,school_performance.School_Year,player.School_ID]"
    )


def test_columns_behind_a_question_stand_as_sql_writes_them():
    schema = make_schema({"group": ["Home Town", "size"], "plain": ["town"]}, [], [])
    assert schema_first("Which home town?", schema)[1].splitlines()[1] == 'columns:["group"."Home Town",plain.town]'
    full = replace(schema, full_names=True)
    assert schema_first("Which home town?", full)[1].splitlines()[1] == 'columns:[ "group"."Home Town" , plain.town ]'


def test_behind_a_question_that_names_no_column_stands_none():
    assert schema_first("How many?", make_schema({"many": ["id", "size"]}, [1], []))[1] == "How many?"


def test_of_columns_that_share_words_the_nearest_stand_behind_a_question():
    """Those of whose words most are asked for, not more than LINKED, and among equals the first."""
    far = [f"name_of_{letter}" for letter in "abcdefghij"]
    schema = make_schema({"t": [*far, "size", "name", "first_name"]}, [], [])
    found = linked("Which name?", schema)
    assert found == ["t.name", "t.first_name", *(f"t.{name}" for name in far)][:LINKED] and len(far) + 2 > LINKED


def test_no_column_behind_a_question_was_dropped(school):
    """Neither by itself nor with its table, at any budget."""
    question = "Which school years and school colors of a school id have a class?"
    for budget in range(len(prompt(question, school)) + 200, -1, -7):
        (first, second), _ = fit(question, school, (), budget, lambda parts: sum(map(len, parts)), schema_first)
        columns = [line for line in second.splitlines() if line.startswith("columns:[")]
        names = set(columns[0].removeprefix("columns:[").removesuffix("]").split(",")) if columns else set()
        assert names <= columns_of(first) and len(names) <= LINKED
        assert names or not columns_of(first)  # the columns that are named leave last
    names = [name for _, name in school.columns]
    enrollment, table = names.index("Enrollment"), school.columns[names.index("Enrollment")][0]
    assert "school.Enrollment" in linked(QUESTION, school)
    for dropped in (enrollment, -1 - table):
        assert "school.Enrollment" not in linked(QUESTION, school, (), frozenset({dropped}))


# ----------------------------------------------------------------------------------------------------------- shortening


def shortened(question: str, schema: Schema) -> dict[int, str]:
    """The prompt at each budget of characters, from ample to none."""
    longest = len(prompt(question, schema))
    return {budget: fit(question, schema, (), budget, len)[0] for budget in range(longest + 5, -1, -1)}


def columns_of(text: str) -> set[str]:
    """`table.column` for each column that a prompt lists."""
    found = set()
    for line in text.splitlines():
        if line.startswith("Table "):
            table, names = line.removeprefix("Table ").removesuffix("]").split(", columns = [*")
            found |= {f"{table}.{name}" for name in names.split(",") if name}
    return found


def tables_of(text: str) -> set[str]:
    return {line.split(",")[0] for line in text.splitlines() if line.startswith("Table ")}


def test_a_prompt_that_fits_is_left_alone(school):
    assert fit(QUESTION, school, (), len(GOLDEN), len) == (GOLDEN, False)
    assert fit(QUESTION, school, (), len(GOLDEN) - 1, len)[1]


def test_a_prompt_is_never_longer_than_the_budget_where_that_is_possible(school):
    prompts = shortened(QUESTION, school)
    barest = min(map(len, prompts.values()))
    assert all(len(text) <= max(budget, barest) for budget, text in prompts.items())
    assert barest == len(f"{QUESTION}\ndb_id:school_player\n\nforeign key:[]\nprimary key:[]")


def test_question_and_headings_always_stay(school):
    for text in shortened(QUESTION, school).values():
        lines = text.splitlines()
        assert lines[:2] == [QUESTION, "db_id:school_player"]
        assert lines[-2].startswith("foreign key:[") and lines[-1].startswith("primary key:[") and text.endswith("]")


def test_a_smaller_budget_never_brings_anything_back(school):
    prompts = list(shortened(QUESTION, school).values())
    for more, less in zip(prompts, prompts[1:]):
        assert columns_of(less) <= columns_of(more) and tables_of(less) <= tables_of(more) and len(less) <= len(more)


def test_no_more_is_removed_than_needed(school):
    """Every budget gets the longest of all the prompts that its order of removals goes through."""
    prompts = shortened(QUESTION, school)
    stages = {len(text) for text in prompts.values()}
    assert len(stages) > len(school.columns)  # each column left alone at one of them
    assert all(len(text) == max(n for n in stages if n <= budget) for budget, text in prompts.items() if budget >= min(stages))


def test_what_leaves_when():
    """Plain columns, then columns of keys and the tables nobody asks for, then the lists of keys, then what matches."""
    tables = {"customer": ["customer_id", "name", "city"], "Invoice": ["invoice_id", "customer_ref", "total"], "note": ["body"]}
    schema = make_schema(tables, [1, 4, 6], [[5, 1]])
    order = []
    prompts = list(shortened("List the names and the totals", schema).values())
    for more, less in zip(prompts, prompts[1:]):
        order += sorted(columns_of(more) - columns_of(less)) + sorted(tables_of(more) - tables_of(less))
        if "primary key:[]" in less and "primary key:[]" not in more:
            order.append("keys")
    assert order == [
        *("note.body", "customer.city"),
        *("Table note", "Invoice.customer_ref", "Invoice.invoice_id", "customer.customer_id"),
        "keys",
        *("Invoice.total", "Table Invoice", "customer.name", "Table customer"),
    ]


def test_columns_that_the_question_names_leave_last():
    tables = {f"table{i}": [f"filler{i}_{j}" for j in range(10)] for i in range(20)}
    tables["table7"][4] = "birthDate"
    schema = make_schema(tables, [1], [[12, 1]])
    question = "What are the birth places?"
    for budget in range(len(prompt(question, schema)), 0, -23):
        text = fit(question, schema, (), budget, len)[0]
        assert "table7.birthDate" in columns_of(text) or not columns_of(text)


def test_a_key_never_names_a_column_that_is_gone(school):
    for text in shortened("Which nicknames are there?", school).values():
        listed = columns_of(text)
        keys = text[text.index("foreign key:[") :].replace("foreign key:[", "").replace("primary key:[", "").replace("]", ",")
        named = [name for name in keys.replace(" = ", ",").replace("\n", "").split(",") if name]
        assert set(named) <= listed


def test_a_question_longer_than_the_budget_stays_whole(school):
    question = "word " * 500 + "end?"
    text, short = fit(question, school, (), 50, len)
    assert short and text == f"{question}\ndb_id:school_player\n\nforeign key:[]\nprimary key:[]"


def test_shortening_counts_seldom():
    """Counting is tokenising: a schema of thousands of columns must not take thousands of counts."""
    schema = make_schema({f"t{i}": [f"c{i}_{j}" for j in range(50)] for i in range(80)}, [], [])
    counts = []
    fit("Which?", schema, (), 1000, lambda text: counts.append(len(text)) or len(text))
    assert len(counts) < 20


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("Сколько заказов у Клиенты?", "Клиенты"),
        ("Как зовут клиентов из Москвы?", "Клиенты"),  # an inflection
        ("这家公司的客户名称是什么?", "客户名称"),
        ("每个客户有多少订单?", "客户名称"),
        ("顧客のなまえは?", "なまえ"),
        ("서울에 있는 고객의 이름", "고객"),
        ("แสดงชื่อลูกค้าทั้งหมด", "ลูกค้า"),
        ("Πόσοι πελάτες υπάρχουν;", "πελάτες"),
        ("Wie hoch ist die GRÖSSE?", "Größe"),
        ("Quel est le prénom ?", "Prenom"),
        ("Cu\u0301al es la duracio\u0301n?", "duración"),
        ("कितने ग्राहक हैं?", "ग्राहक"),
    ],
)
def test_names_in_any_script_that_a_question_names_leave_last(question, name):
    tables = {f"table{i}": [f"filler{i}_{j}" for j in range(10)] for i in range(20)}
    tables["table7"][4] = name
    schema = make_schema(tables, [1], [[12, 1]])
    for budget in range(len(prompt(question, schema)), 0, -61):
        text = fit(question, schema, (), budget, len)[0]
        assert f"table7.{name}" in columns_of(text) or not columns_of(text)


def test_words_of_other_scripts_that_are_not_named_leave():
    tables = {"клиент": ["имя", "город"], "订单": ["金额", "日期"], "filler": [f"filler_{i}" for i in range(10)]}
    schema = make_schema(tables, [], [])
    question = "What is the filler_3?"
    text = fit(question, schema, (), len(prompt(question, schema)) - 30, len)[0]
    assert "filler.filler_3" in columns_of(text) and not {"订单.金额", "клиент.имя"} & columns_of(text)


@pytest.mark.parametrize("form", [question_first, schema_first])
def test_a_schema_of_thousands_of_columns_is_shortened_at_once(form):
    schema = make_schema({f"table_{i}": [f"name_{i}_{j}" for j in range(20)] for i in range(400)}, [1, 21], [[22, 1]])
    counted = []

    def count(parts: tuple[str, str]) -> int:
        counted.append(sum(map(len, parts)))
        return counted[-1] // 4

    times = []
    for i in range(5):
        began = time.process_time()
        parts, short = fit(f"Which name of table {i}?", schema, (), 1800, count, form)
        times.append(time.process_time() - began)
        assert short and count(parts) <= 1800
    assert min(times) < 0.05
    assert max(counted) < 5 * 4 * 1800 and len(counted) < 5 * 12  # a tokenizer takes longer for the whole than all else does


# ---------------------------------------------------------------------------------------------------------- clean SQL


@pytest.mark.parametrize(
    ("written", "sql"),
    [
        ("SELECT 1", "SELECT 1"),
        ("  select a\n from\tb  ", "select a from b"),
        ("```sql\nSELECT 1\n```", "SELECT 1"),
        ("```SQL \nSELECT 1", "SELECT 1"),
        ("```\nSELECT 1;\n```\nThis selects one.", "SELECT 1"),
        ("``` SELECT 1 ```", "SELECT 1"),
        ("SELECT 1\n```\nThat is all.", "SELECT 1"),
        ("```\npip install it\n```\nthen\n```sql\nSELECT 1\n```", "SELECT 1"),
        ("Select the rows like this:\n```sql\nSELECT 1\n```", "SELECT 1"),
        ("Sure! Here it is:\nSELECT 1", "SELECT 1"),
        ("The answer is SELECT 1", "SELECT 1"),
        ("To select them all, run:\n  SELECT 1", "SELECT 1"),
        ("SELECT 1; SELECT 2", "SELECT 1"),
        ("SELECT 1;;", "SELECT 1"),
        ("SELECT 1\n\nThis query selects one.", "SELECT 1"),
        ("SELECT 1\r\n\r\nThis query selects one.", "SELECT 1"),
        ("SELECT a -- the first\nFROM b", "SELECT a FROM b"),
        ("SELECT a /* ; ' */ FROM b", "SELECT a FROM b"),
        ("SELECT a /* never closed", "SELECT a"),
        ("SELECT a--;\n FROM b", "SELECT a FROM b"),
        ("/* select what was asked */ SELECT 1", "SELECT 1"),
        ("/*\nselect what was asked\n*/\nSELECT 1", "SELECT 1"),
        ("-- select what was asked\nSELECT 1", "SELECT 1"),
        ("WITH t AS (SELECT 1) SELECT * FROM t", "WITH t AS (SELECT 1) SELECT * FROM t"),
        ("With this in mind:\nWITH t (a)\nAS (SELECT 1) SELECT a FROM t", "WITH t (a) AS (SELECT 1) SELECT a FROM t"),
        ("with recursive t as (select 1) select 2", "with recursive t as (select 1) select 2"),
        ('WITH "a b" AS NOT MATERIALIZED (SELECT 1) SELECT 2', 'WITH "a b" AS NOT MATERIALIZED (SELECT 1) SELECT 2'),
        ("WITH [a b] AS (SELECT 1) SELECT 2", "WITH [a b] AS (SELECT 1) SELECT 2"),
        ("So: with `a (b` as (select 1) select 2", "with `a (b` as (select 1) select 2"),
        ("VALUES (1), (2)", "VALUES (1), (2)"),
    ],
)
def test_sql_is_taken_out_of_what_stands_around_it(written, sql):
    assert clean_sql(written) == sql


@pytest.mark.parametrize("written", ["", " \n\t", "I do not know.", "```sql\n```", ";", "--", "DROP TABLE a", "selection", "'"])
def test_where_there_is_no_statement_there_is_no_sql(written):
    assert clean_sql(written) == ""


@pytest.mark.parametrize(
    "quoted",
    [
        *("'--x'", "'a;b'", "'/* a */'", "'a  b'", "'it''s; -- fine'", '"a ""b""; c"', "`a;b`", "'\"'", '"\'"', "''", "'```'"),
        *("'\u00e9\u4e2d;'", "'<= {x} ~'", "[a -- b]", "[a; b]", "[Owner's code]", "[a  b]", "[/* a */]", '[say "x]', "[a[b]"),
    ],
)
def test_quoted_text_stays_as_it_is(quoted):
    sql = f"SELECT a FROM b WHERE c = {quoted} AND d = 1"
    assert clean_sql(sql + "; more") == target(sql + " ;") == one_line(sql) == sql


@pytest.mark.parametrize(
    "sql",
    ["SELECT [Qty -- ordered] FROM stock", "SELECT a FROM stock WHERE [Owner's code] = 'a  b' AND [it's] = 'c;  d'"],
)
def test_brackets_are_quotes(sql):
    assert clean_sql(f"Sure:\n{sql} ; -- [done]") == target(f"/* [ */ {sql} -- '") == one_line(sql) == sql


def test_line_breaks_and_tabs_within_quotes_become_spaces():
    assert clean_sql("SELECT 'a\nb\tc\r\n  d'") == target("SELECT 'a\nb\tc\r\n  d'") == "SELECT 'a b c    d'"


def test_a_target_with_comments_still_means_the_same():
    sql = "-- all of them\nSELECT a -- the first\nFROM (SELECT 1 AS a) /* nested */;\n"
    assert target(sql) == "SELECT a FROM (SELECT 1 AS a)"
    assert sqlite3.connect(":memory:").execute(target(sql)).fetchall() == [(1,)]


UNITS = (
    *("[", "[]", "['", "[a", "'[", "];", "with [", "with `"),
    *("'", '"', "`", "''", "'\"`", "'a", "```", "```sql\n", "/*", "*/", "/*'", "--", "--\n", ";", "("),
    *("\n", "\n ", " ", "\r", "\t", "\n\nselect", "\x00", "\u2028"),
    *("with ", "with\n", "with a(", "with a as ", "with a as (", 'with "', "with recursive", "as(", "values ", "select "),
)
BEFORE = ("", "SELECT ", "SELECT '", "with ", "with x", "with x(", "with x(a) as ", "\nwith a ")


@pytest.mark.parametrize("unit", UNITS, ids=repr)
def test_time_grows_no_faster_than_the_text(unit):
    """25 kB of anything: in time that is quadratic this would take from two to many seconds."""
    for before in BEFORE:
        text = before + unit * (25_000 // len(unit)) + "x"
        start = time.process_time()
        clean_sql(text)
        target(text)
        assert time.process_time() - start < 0.5, repr(before)


@pytest.mark.parametrize("unit", ["'", "`", "/*", "\n", "with a(", "with with with "])
def test_a_model_that_writes_200_kb_holds_nobody_up(unit):
    start = time.process_time()
    clean_sql(unit * (200_000 // len(unit)))
    assert time.process_time() - start < 1.0


def test_random_text_is_cleaned_to_one_line_and_no_further():
    rng = random.Random(0)
    pieces = [*UNITS, "SELECT ", "FROM t ", "a", ",", "\\", "\ud800", "\u00a0", "\x1c", "WITH t AS (", "VALUES (1)", " x "]
    for _ in range(4000):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 25)))
        sql = clean_sql(text)
        assert not set(sql) & set("\n\r\t"), text
        assert sql == one_line(sql) == sql.strip(), text
        target(text)


def test_cleaning_again_changes_nothing():
    rng = random.Random(1)
    pieces = ["SELECT ", "a ", "'b;'", '"c"', "`d`", "--e\n", "/*f*/", "\n", "\t", ";", "WITH t AS (", ")", "'", '"', "prose "]
    for _ in range(4000):
        sql = clean_sql("".join(rng.choices(pieces, k=rng.randint(0, 25))))
        assert clean_sql(sql) == sql
