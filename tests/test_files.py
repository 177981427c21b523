"""Records in the forms in which people have them, and what is said of those that cannot be read."""

import gzip
import json
import os

import pytest

from data.common.errors import UserError
from data.common.files import read_records

RECORDS = [
    {"db_id": "shop", "question": 'How many "big", red\nboxes?', "query": "SELECT 1"},
    {"db_id": "shop", "question": "Wie viele Äpfel \u2028 苹果?", "query": "SELECT 'a;b'"},
]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS)
TABLE = """db_id{0}question{0}query
shop{0}"How many ""big"", red
boxes?"{0}SELECT 1
shop{0}Wie viele Äpfel \u2028 苹果?{0}"SELECT 'a;b'"
"""


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.json", json.dumps(RECORDS)),
        ("q.json", LINES),
        ("q.jsonl", LINES.replace("\n", "\r\n\r\n")),
        ("Q.JSONL", LINES.rstrip()),
        ("q.csv", TABLE.format(",")),
        ("q.csv", TABLE.format(";")),
        ("q.tsv", TABLE.format("\t")),
        ("q.csv", "\r\n" + TABLE.format(",").replace("db_id", " DB_ID ").replace("\nshop", "\n\nshop").lstrip()),
    ],
)
def test_records_are_the_same_in_each_form(tmp_path, name, text, mark, packed):
    path = tmp_path / (name + ".gz" if packed else name)
    content = (mark + text.lstrip("\r\n")).encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    assert read_records(path, "mend it") == RECORDS


def test_tabs_alone_separate_in_a_file_that_is_named_for_them(tmp_path):
    (tmp_path / "q.tsv").write_text("question\nHow many, in all?\n")
    assert read_records(tmp_path / "q.tsv", "mend it") == [dict(question="How many, in all?")]


def test_what_is_packed_is_known_by_its_content(tmp_path):
    (tmp_path / "q.json").write_bytes(gzip.compress(json.dumps(RECORDS).encode()))
    assert read_records(tmp_path / "q.json", "mend it") == RECORDS


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("q.json", b"", "not valid JSON (Expecting value: line 1 column 1 (char 0))"),
        ("q.json", b'[{"a": 1}', "not valid JSON ("),
        ("q.json", b'{"a": 1}\n{"a": ', "not valid JSON (line 2: "),
        ("q.jsonl", b'{"a": 1}\n\nno\n', "not valid JSON Lines (line 3: "),
        ("q.jsonl", b'{"a": 1}\n2\n', "does not hold a list of JSON objects"),
        ("q.jsonl", b"[" * 200_000, "not valid JSON Lines ("),
        ("q.csv", b"a,b\n1,2\n3,How many, in all?\n", "not valid CSV (line 3 has 3 fields and not 2, as the first: "),
        ("q.csv", b"a,b\n1\n", "not valid CSV (line 2 has 1 fields and not 2"),
        ("q.csv", b'a,b\n1,"2\n3,4\n', "not valid CSV (line 3: unexpected end of data)"),
        ("q.csv", b'a,b\n1,"2"x\n', "not valid CSV (line 2: "),
        ("q.csv", "a\nÄ\n".encode("cp1252"), "not UTF-8 at byte 2: save it as UTF-8"),
        ("q.json", json.dumps(RECORDS).encode("utf-16"), "not UTF-8 at byte 0: save it as UTF-8"),
        ("q.json.gz", gzip.compress(b"[]" * 99, mtime=0)[:-9], "not a whole gzip file"),
        ("q.json.gz", b"\x1f\x8b\x08\x00" + b"\xff" * 99, "not a whole gzip file"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_records(tmp_path / name, "mend it")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / name} ") and what in message and message.endswith("mend it")
    assert "\n" not in message


def test_bytes_that_are_not_utf_8_can_be_read_with_replacement(tmp_path):
    (tmp_path / "q.csv").write_bytes(b"question\nn\xe9e?\n")
    assert read_records(tmp_path / "q.csv", "mend it", errors="replace") == [{"question": "n\ufffde?"}]


def test_a_pipe_and_a_device_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "q.json")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    for name in ("q.json", "zero.csv"):
        with pytest.raises(UserError, match="is no regular file"):
            read_records(tmp_path / name, "mend it")


def test_a_cell_may_be_large(tmp_path):
    (tmp_path / "q.csv").write_text(f"question,answer\nq,{'x' * 200_000}\n")
    (record,) = read_records(tmp_path / "q.csv", "mend it")
    assert len(record["answer"]) == 200_000
