"""The page of predictions: its figures, its escaping, and its use in a real browser."""

import json
import re
import shutil
import sys
import time

import pytest

from data.answers.score import score, totals
from data.benchmark import sample, spider
from data.common.errors import exit_on_user_error
from data.report import page

ATTACK = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\u2028<!--"
COUNT = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A scored run on the sample: right and wrong SQL, SQL that fails, none at all, and an attack."""
    benchmark = spider.load(sample.build(), ("dev",))
    examples = benchmark.splits["dev"][:: len(benchmark.splits["dev"]) // COUNT][:COUNT]
    predicted = [example.sql for example in examples]
    broken = ["SELECT x FROM nowhere", "", f"SELECT '{ATTACK}'", "SELECT 1 WHERE ("]
    predicted[1:6] = [*broken, "SELECT 12345 AS wrong_number"]
    rows = score(benchmark, "dev", predicted, examples)
    rows[3]["question"] = ATTACK
    figures = totals(rows)
    made = tmp_path_factory.mktemp("run")
    result = dict(script="llama_65b", model=f"some/model {ATTACK}", method="QLoRA NF4", gpus=0, gpu_name="cpu", updates=2000)
    result |= dict(n=COUNT) | {name: figures[name] for name in ("execution_accuracy", "exact_match")}
    started = dict(script="llama_65b", started="2026-11-24T10:00:00", data=dict(directory=str(benchmark.root)))
    (made / "args.json").write_text(json.dumps(started))
    (made / "result.json").write_text(json.dumps(result))
    (made / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page.write(made, benchmark, rows, result)
    return made


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def content(folder) -> dict:
    text = (folder / "report.html").read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


# --------------------------------------------------------------------------------------------------- without a browser


def test_the_figures_are_those_of_the_result(folder):
    held, result = content(folder), json.loads((folder / "result.json").read_text())
    for name in ("execution_accuracy", "exact_match", "n"):
        assert held["figures"][name] == result[name]
    assert held["head"]["started"] == "2026-11-24"
    assert held["figures"]["errors"] == totals(rows_of(folder))["errors"]


def test_nothing_of_the_data_is_markup_or_comes_over_a_network(folder):
    text = (folder / "report.html").read_text()
    assert text.count("<script") == text.count("</script>") == 2 and "<img" not in text and "\u2028" not in text
    assert content(folder)["examples"][3]["question"] == ATTACK
    without_data = re.sub(r'id="data">.*?</script>', "", text, flags=re.DOTALL)
    assert not re.search(r"(?:src|href)\s*=|url\(|@import|https?://", without_data)


@pytest.mark.parametrize(
    ("gold", "predicted", "alone"),
    [
        ("SELECT a FROM b", "select A from b", ([], [])),
        ("SELECT a FROM b WHERE c = 'x'", "SELECT a FROM b WHERE c = 'X'", (["'x'"], ["'X'"])),
        ("SELECT a FROM b", "SELECT a, d FROM b", ([], [", d"])),
        ("SELECT a", "", (["SELECT a"], [])),
        ("", "", ([], [])),
    ],
)
def test_pieces_that_differ_are_marked(gold, predicted, alone):
    marked = page.marked(gold, predicted)
    assert ("".join(marked[0]), "".join(marked[1])) == (gold, predicted)
    assert (marked[0][1::2], marked[1][1::2]) == alone


@pytest.mark.parametrize(("gold", "predicted"), [("a " * 50_000, "b " * 50_000), ("x, " * 30_000 + "y", "x, " * 33_000 + "z")])
def test_texts_that_repeat_themselves_are_compared_at_once(gold, predicted):
    start = time.process_time()
    marked = page.marked(f"SELECT {gold} FROM t", f"select {predicted} FROM t")
    assert time.process_time() - start < 2
    assert ("".join(marked[0]), "".join(marked[1])) == (f"SELECT {gold} FROM t", f"select {predicted} FROM t")
    assert (marked[0][0][:6], marked[1][-1][-7:]) == ("SELECT", " FROM t") and len(marked[0]) == len(marked[1]) == 3


@pytest.mark.parametrize(("rule", "n"), [("kept", 2), ("dropped", 3), (None, 3)])
def test_results_are_those_of_the_rule_that_was_scored(folder, tmp_path, rule, n):
    benchmark = spider.load(sample.build(), ("dev",))
    sql = "SELECT DISTINCT x FROM (SELECT 1 AS x UNION ALL SELECT 1 UNION ALL SELECT 2)"
    row = rows_of(folder)[0] | dict(predicted=sql)
    page.write(tmp_path, benchmark, [row], dict(distinct=rule) if rule else {})
    held = content(tmp_path)
    assert held["results"][held["examples"][0]["results"][1]]["n"] == n
    assert held["head"]["rules"] == f"DISTINCT {rule or 'dropped'}"


def test_gold_is_run_without_its_semicolons_as_it_was_scored(folder, tmp_path):
    row = rows_of(folder)[0] | dict(gold="SELECT 7 AS seven ; ; -- all")
    page.write(tmp_path, spider.load(sample.build(), ("dev",)), [row], {})
    held = content(tmp_path)
    assert held["results"][held["examples"][0]["results"][0]] == dict(columns=["seven"], rows=[["7"]], n=1)


def test_results_are_shown_in_their_first_rows_and_short(folder):
    held = content(folder)
    assert held["results"][held["examples"][5]["results"][1]] == dict(columns=["wrong_number"], rows=[["12345"]], n=1)
    assert held["results"][held["examples"][1]["results"][1]] == dict(error="no such table: nowhere")
    assert held["examples"][2]["results"][1] == -1
    assert page.cut("x" * 500) == "x" * 79 + "…" and page.cut(None) is None and page.cut(b"\x00\xff") == "x'00ff'"
    many = page.shown(page.Result([(i,) * 50 for i in range(10)], 30, ["c"] * 50, None, ""))
    assert (len(many["rows"]), len(many["rows"][0]), len(many["columns"]), many["n"]) == (10, 20, 20, 30)


def test_statements_have_as_long_as_in_the_run(folder, tmp_path):
    benchmark = spider.load(sample.build(), ("dev",))
    (tmp_path / "args.json").write_text(json.dumps(dict(args=dict(seconds=0.25))))
    endless = "WITH RECURSIVE a(x) AS (SELECT 1 UNION ALL SELECT x FROM a) SELECT count(*) FROM a"
    page.write(tmp_path, benchmark, [rows_of(folder)[0] | dict(predicted=endless)], {})
    held = content(tmp_path)
    assert "0.25 s" in held["results"][held["examples"][0]["results"][1]]["error"]


def test_half_a_surrogate_pair_of_a_model_is_written(folder):
    benchmark = spider.load(sample.build(), ("dev",))
    row = rows_of(folder)[0] | dict(predicted="SELECT '\ud800'")
    page.write(folder.parent, benchmark, [row], json.loads((folder / "result.json").read_text()))
    assert content(folder.parent)["examples"][0]["predicted"][-1].startswith("'?")


def test_candidates_stand_with_what_running_them_came_to(folder):
    proposed = [dict(sql="SELECT\n1", score=-0.25, question_score=-2, rows=1, error=None)]
    proposed.append(dict(sql="", score=-1, rows=0, error="does not parse"))
    shown = page.example(rows_of(folder)[0] | dict(candidates=proposed, chosen=0), (0, 0))
    assert shown["candidates"] == [
        dict(sql="SELECT 1", score="-0.250", question_score="-2.000", outcome="1 row"),
        dict(sql="", score="-1.000", question_score="", outcome="does not parse"),
    ]
    assert shown["chosen"] == 0 and content(folder)["examples"][0]["candidates"] == []


def command(monkeypatch, capsys, *words) -> str:
    monkeypatch.setattr(sys, "argv", ["page", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        exit_on_user_error(page.main)
    said = capsys.readouterr().err.strip()
    assert caught.value.code == 2 and len(said.splitlines()) == 1
    return said


def test_the_command_makes_the_same_page_again(folder, monkeypatch, tmp_path):
    again = shutil.copytree(folder, tmp_path / "again")
    (again / "report.html").unlink()
    monkeypatch.setattr(sys, "argv", ["page", str(again)])
    rows = rows_of(again)
    rows[3]["question"] = "of the data"  # scoring again takes questions from the data
    page.main()
    assert content(again) == content(folder)


ODD = [
    lambda result: result | dict(execution_accuracy=float("nan"), updates=float("inf"), train_seconds=float("-inf")),
    lambda result: {name: value for name, value in result.items() if name not in ("n", "updates", "model", "gpus")},
    lambda result: dict(script="x"),
]


@pytest.mark.parametrize("change", ODD, ids=["NaN", "without n", "almost nothing"])
def test_a_result_that_lacks_figures_gives_a_page(folder, monkeypatch, tmp_path, change):
    odd = shutil.copytree(folder, tmp_path / "odd")
    (odd / "result.json").write_text(json.dumps(change(json.loads((odd / "result.json").read_text()))))
    monkeypatch.setattr(sys, "argv", ["page", str(odd)])
    page.main()
    text = (odd / "report.html").read_text()
    assert "NaN" not in text.replace("isNaN", "") and "Infinity" not in text
    assert content(odd)["figures"] == content(folder)["figures"]
    assert content(odd)["head"]["updates"] in (None, 2000)


def test_the_sample_is_data_by_its_name(folder, monkeypatch, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "moved")
    record = json.loads((moved / "args.json").read_text())
    record["data"]["directory"] = "nowhere"
    (moved / "args.json").write_text(json.dumps(record))
    monkeypatch.setattr(sys, "argv", ["page", str(moved), "--data", "sample"])
    page.main()
    assert content(moved) == content(folder)


def test_what_is_no_scored_run_ends_in_one_line(folder, monkeypatch, capsys, tmp_path):
    assert "args.json is missing" in command(monkeypatch, capsys, tmp_path / "none")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "args.json").write_text("{}")
    assert "begun has no predictions yet" in command(monkeypatch, capsys, tmp_path / "begun")
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "report.html").unlink()
    lines = (broken / "predictions.jsonl").read_text()
    (broken / "predictions.jsonl").write_text(lines[: len(lines) // 2])
    assert "predictions.jsonl is not valid JSON Lines (line " in command(monkeypatch, capsys, broken)
    bare = [{name: row[name] for name in ("index", "db_id", "gold", "predicted")} for row in rows_of(folder)]
    (broken / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
    assert "is not scored yet" in command(monkeypatch, capsys, broken)
    assert not (broken / "report.html").exists()


# ------------------------------------------------------------------------------------------------------ in a real browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not chromium or not driver:
        pytest.skip("needs Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    switches = "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    switches += " disable-component-update disable-sync"
    for word in [*switches.split(), f"user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(f"--{word}")
    made = webdriver.Chrome(options=options, service=Service(driver))
    made.set_window_size(1200, 900)
    yield made
    made.quit()


@pytest.fixture
def opened(browser, folder):
    browser.get("about:blank")
    browser.get((folder / "report.html").as_uri())
    return browser


def choose(browser, name: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("id", name)).select_by_value(value)


def soon(look):
    """What `look` finds, once it finds something."""
    limit = time.monotonic() + 60
    while not (found := look()):
        assert time.monotonic() < limit
        time.sleep(0.02)
    return found


def shown(browser, expected: int) -> list[int]:
    """The indices of the examples that the filters leave, once there are as many as expected."""
    soon(lambda: browser.find_element("id", "count").text == f"{expected} of {COUNT}")
    seen = [e.get_attribute("id") for e in browser.find_elements("css selector", ".example") if e.is_displayed()]
    assert len(seen) == expected
    return [int(name.removeprefix("example-")) for name in seen]


def test_each_filter_leaves_what_it_says(opened, folder):
    rows = rows_of(folder)
    some = rows[7]
    for name, value, fits in (
        ("verdict", "wrong", lambda row: not row["execution_match"]),
        ("exactness", "yes", lambda row: row["exact_match"]),
        ("hardness", some["hardness"], lambda row: row["hardness"] == some["hardness"]),
        ("error", "no such table", lambda row: row["error"] == "no such table"),
        ("database", some["db_id"], lambda row: row["db_id"] == some["db_id"]),
    ):
        expected = [row["index"] for row in rows if fits(row)]
        assert 0 < len(expected) < COUNT
        choose(opened, name, value)
        assert shown(opened, len(expected)) == expected
        opened.find_element("css selector", "button[type=reset]").click()
        shown(opened, COUNT)
    choose(opened, "verdict", "wrong")
    choose(opened, "error", "no such table")
    shown(opened, 1)


def test_search_finds_words_of_questions_and_sql(opened, folder):
    search = opened.find_element("id", "search")
    search.send_keys("nowhere SELECT")
    assert shown(opened, 1) == [rows_of(folder)[1]["index"]]
    search.clear()
    search.send_keys("no such text anywhere")
    shown(opened, 0)
    assert opened.find_element("css selector", ".none").text == "No example fits these filters."


def test_an_opened_example_shows_everything(opened, folder):
    row = rows_of(folder)[5]
    example = opened.find_element("id", f"example-{row['index']}")
    assert len(example.find_elements("css selector", ".body")) == 0  # made when it is opened
    example.find_element("css selector", "summary").click()
    body = soon(lambda: example.find_elements("css selector", ".body"))[0]
    gold, predicted = (element.text for element in body.find_elements("css selector", ".sql"))
    assert (gold, predicted) == (page.one_line(row["gold"]), row["predicted"])
    assert body.find_elements("css selector", "ins") and body.find_elements("css selector", "del")
    results = body.find_elements("css selector", ".result")
    assert len(results) == 2 and "12345" in results[1].text and "1 row" in results[1].text
    assert "Execution: wrong" in body.text and "exact match: no" in body.text and row["message"] in body.text
    tables = re.findall(r"CREATE TABLE (\w+)", (sample.SOURCE / "database" / row["db_id"] / "schema.sql").read_text())
    assert tables and all(table in body.find_element("css selector", ".schema").text for table in tables)


def test_text_of_the_data_is_never_run_and_no_network_is_used(opened, folder):
    opened.get_log("browser"), opened.get_log("performance")
    opened.refresh()
    row = rows_of(folder)[3]
    example = opened.find_element("id", f"example-{row['index']}")
    assert example.find_element("css selector", ".question").text.startswith("</script><script>window.hacked = 1")
    for element in opened.find_elements("css selector", ".example > summary"):
        opened.execute_script("arguments[0].parentNode.open = true", element)
    time.sleep(0.2)
    assert opened.execute_script("return window.hacked") is None
    assert opened.find_elements("css selector", "img") == [] and opened.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = {m["params"]["request"]["url"].split(":")[0] for m in sent if m["method"] == "Network.requestWillBeSent"}
    assert asked == {"file"}


def test_the_page_says_what_the_result_says(opened, folder):
    result = json.loads((folder / "result.json").read_text())
    for name, key in (("execution", "execution_accuracy"), ("exact", "exact_match")):
        text = opened.find_element("id", name).text
        assert f"{100 * result[key]:.1f} %" in text and f"n = {COUNT}" in text
    hardness = {row["hardness"] for row in rows_of(folder)}
    assert all(level in opened.find_element("id", "by-hardness").text for level in hardness)
    assert "no such table" in opened.find_element("id", "by-error").text


def test_the_keyboard_is_enough(opened, folder):
    from selenium.webdriver.common.keys import Keys

    first, second = (row["index"] for row in rows_of(folder)[:2])

    def press(*keys):
        opened.switch_to.active_element.send_keys(*keys)

    press("j")
    press("j")
    press(Keys.ENTER)
    assert opened.find_element("id", f"example-{second}").get_attribute("open")
    press("k")
    press(Keys.SPACE)
    assert opened.find_element("id", f"example-{first}").get_attribute("open")
    press("/")
    press("nowhere")
    assert shown(opened, 1) == [second]
    press(Keys.ESCAPE)
    assert opened.find_element("id", "search").get_attribute("value") == "nowhere"  # a browser would empty it
    press("j")
    assert opened.execute_script("return document.activeElement.parentNode.id") == f"example-{second}"


def test_filters_stand_in_the_address(opened, folder):
    choose(opened, "verdict", "wrong")
    wrong = sum(not row["execution_match"] for row in rows_of(folder))
    shown(opened, wrong)
    address = opened.current_url
    assert address.endswith("#verdict=wrong")
    opened.get("about:blank")
    opened.get(address)
    shown(opened, wrong)


def test_a_phone_needs_no_sideways_scrolling(opened):
    phone = dict(width=360, height=780, deviceScaleFactor=1, mobile=True)
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        for element in opened.find_elements("css selector", ".example"):
            opened.execute_script("arguments[0].open = true", element)
        time.sleep(0.2)
        assert opened.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("change", ODD, ids=["NaN", "without n", "almost nothing"])
def test_a_page_without_figures_works(browser, folder, tmp_path, change):
    benchmark = spider.load(sample.build(), ("dev",))
    page.write(tmp_path, benchmark, rows_of(folder), change(json.loads((folder / "result.json").read_text())))
    browser.get_log("browser")
    browser.get((tmp_path / "report.html").as_uri())
    shown(browser, COUNT)
    assert f"n = {COUNT}" in browser.find_element("id", "execution").text
    assert "DISTINCT dropped" in browser.find_element("id", "facts").text and browser.get_log("browser") == []


def test_dark_mode_is_dark(opened):
    backs = []
    for value in ("light", "dark"):
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": value}]})
        backs.append(opened.execute_script("return getComputedStyle(document.body).backgroundColor"))
    light, dark = (sum(map(int, re.findall(r"\d+", back)[:3])) for back in backs)
    assert light > 600 and dark < 150
