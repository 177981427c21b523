"""Answers are held to the grammar of their database, where there is one, and go on without it where there is not."""

import importlib
import sys
from dataclasses import replace

import pytest
import torch

import llama_65b
from data.answers import constrained
from data.answers.constrained import ConstrainedBatch, Grammars, grammars_for
from data.benchmark import spider
from data.common.errors import UserError

BASE = dict(full_names=True, plain_sql=False)


@pytest.fixture(scope="module")
def benchmark(small_sample):
    return spider.load(small_sample, full_names=True)


@pytest.fixture(scope="module", params=["T5_3B", "gpt_neox_20b", "llama_65b"])
def tokenizer(request, benchmark):
    script = importlib.import_module(request.param)
    return script.load_tokenizer(replace(script.Args(), **script.TINY, tiny=True), benchmark)


def allowed(held: ConstrainedBatch) -> list[list[int]]:
    """The tokens that may follow in each slot."""
    masks = torch.full((len(held.slots), held.words), -1, dtype=torch.int32)
    free = held.masks(masks.data_ptr())
    masks[free] = -1
    bits = masks[:, :, None] >> torch.arange(32) & 1
    return [row.nonzero()[:, 0].tolist() for row in bits.flatten(1)]


def test_only_what_the_grammar_has_may_follow(benchmark, tokenizer):
    """Nothing but the end follows a whole statement, and no end comes before."""
    schema = next(iter(benchmark.schemas.values()))
    grammars = Grammars(tokenizer, len(tokenizer))
    table = schema.tables[0]
    pieces = tokenizer(f" SELECT * FROM {table}", add_special_tokens=False).input_ids
    held = ConstrainedBatch(grammars, [schema, None], 1)
    for piece in pieces:
        own, free = allowed(held)
        assert piece in own and tokenizer.eos_token_id not in own and len(own) < len(free) == 32 * held.words
        held.advance([[0], [0]], [[piece], [piece]])
    assert tokenizer.eos_token_id in allowed(held)[0]


def test_beams_that_go_on_from_one_another_keep_their_own_state(benchmark, tokenizer):
    schema = next(schema for schema in benchmark.schemas.values() if len(schema.tables) > 1)
    grammars = Grammars(tokenizer, len(tokenizer))
    first, second = (tokenizer(text, add_special_tokens=False).input_ids for text in (" SELECT *", " SELECT COUNT"))
    shared = sum(one == other for one, other in zip(first, second))
    held = ConstrainedBatch(grammars, [schema], 2)
    for piece in first[:shared]:
        held.advance([[0, 0]], [[piece, piece]])
    start = allowed(held)
    held.advance([[1, 1]], [[first[shared], second[shared]]])
    left, right = allowed(held)
    assert start[0] == start[1] and left != right
    held.advance([[1, -1]], [[right[0], -1]])
    assert held.slots[0] and held.slots[1] is None and not grammars.unchecked


def test_other_spellings_and_a_wish_leave_answers_free(benchmark, tokenizer):
    size = len(tokenizer)
    assert grammars_for(BASE | dict(full_names=False), True, tokenizer, size) is None
    assert grammars_for(BASE, False, tokenizer, size) is None
    assert grammars_for(BASE | dict(full_names=False, plain_sql=True), True, tokenizer, size).size == size


def test_a_schema_without_a_grammar_is_said_once_and_ends_nothing(benchmark, tokenizer, monkeypatch, capsys):
    schema = next(iter(benchmark.schemas.values()))
    for grammar in ("start: nowhere", None):
        if grammar:
            monkeypatch.setattr(constrained, "grammar", lambda schema, without, grammar=grammar: grammar)
        else:
            monkeypatch.undo()
            schema = replace(schema, tables=(), columns=schema.columns[:1], primary_keys=(), foreign_keys=())
        grammars = Grammars(tokenizer, len(tokenizer))
        assert grammars.matcher(schema) is None and grammars.matcher(schema) is None
        said = capsys.readouterr().out
        assert said.count("\n") == 1 and said.startswith(f"not all answers about {schema.db_id} are checked")


def test_names_that_a_vocabulary_cannot_write_are_left_out_and_said(benchmark, capsys):
    """T5's has no pieces for Chinese: an answer that began with such a name could not go on, and would end there."""
    script = importlib.import_module("T5_3B")
    tokenizer = script.load_tokenizer(replace(script.Args(), **script.TINY, tiny=True), benchmark)
    schema = next(schema for schema in benchmark.schemas.values() if len(schema.tables) > 1)
    schema = replace(schema, tables=("客户", *schema.tables[1:]))
    grammars = Grammars(tokenizer, len(tokenizer))
    assert grammars.matcher(schema) and not grammars.unchecked
    said = capsys.readouterr().out
    which = "which hold line breaks, or what the model's vocabulary cannot write"
    assert said == f"answers about {schema.db_id} leave out 1 of its names, {which}: '客户'\n"
    broken = replace(schema, db_id="broken", tables=("two\nlines", *schema.tables[1:]))
    assert grammars.matcher(broken) and not grammars.unchecked
    assert capsys.readouterr().out == f"answers about broken leave out 1 of its names, {which}: 'two\\nlines'\n"
    assert grammars.matcher(replace(schema, db_id="all", tables=tuple(f"客户{i}" for i in range(len(schema.tables))))) is None
    assert "not all answers about all are checked" in capsys.readouterr().out


def test_names_are_left_out_whose_quotes_a_vocabulary_cannot_write(benchmark, capsys):
    """The small tokenizer has no piece for a double quote where its benchmark has none."""
    tokenizer = llama_65b.load_tokenizer(replace(llama_65b.Args(), **llama_65b.TINY, tiny=True), benchmark)
    assert tokenizer.unk_token_id in tokenizer('"', add_special_tokens=False).input_ids
    schema = next(schema for schema in benchmark.schemas.values() if len(schema.tables) > 1)
    schema = replace(schema, db_id="shop", tables=(f"{schema.tables[0]} {schema.tables[0]}", *schema.tables[1:]))
    assert Grammars(tokenizer, len(tokenizer)).matcher(schema)
    said = capsys.readouterr().out
    assert "leave out 1 of its names" in said and said.endswith(f"{schema.tables[0]!r}\n")


def test_a_dead_end_is_no_end(benchmark, tokenizer, monkeypatch, capsys):
    """llguidance offers the end of sequence where nothing else may follow, also in the middle of a statement."""
    schema = next(iter(benchmark.schemas.values()))
    monkeypatch.setattr(constrained, "grammar", lambda schema, without=(): 'start: " SELECT * FROM " "客户"')
    held = ConstrainedBatch(Grammars(tokenizer, len(tokenizer)), [schema], 1)
    for piece in tokenizer(" SELECT * FROM", add_special_tokens=False).input_ids:
        assert len(allowed(held)[0]) < 32
        held.advance([[0]], [[piece]])
    while held.slots[0] and len(may := allowed(held)[0]) < 32:
        held.advance([[0]], [[may[0]]])
    assert held.slots == [None] and "not all answers about" in capsys.readouterr().out


def test_an_answer_that_llguidance_gives_up_goes_on_freely(benchmark, tokenizer, capsys):
    schema = next(iter(benchmark.schemas.values()))
    held = ConstrainedBatch(Grammars(tokenizer, len(tokenizer)), [schema, schema], 1)
    held.advance([[0], [0]], [[tokenizer.eos_token_id], [-1]])  # which the grammar does not have there
    assert (
        allowed(held)[0] == list(range(32 * held.words))
        and held.slots == [None, None]
        and "not all answers about" in capsys.readouterr().out
    )


def test_a_tokenizer_that_is_read_in_another_way_is_said(benchmark, tokenizer, monkeypatch, capsys):
    real = constrained.vocabulary

    def shifted(tokenizer, logits):
        vocabulary, head = real(tokenizer, logits)
        monkeypatch.setattr(constrained, "PROBE", "SELECT 1")
        return type("Other", (), dict(decode_str=lambda self, pieces: "SELECT 2", vocab_size=vocabulary.vocab_size))(), head

    monkeypatch.setattr(constrained, "vocabulary", shifted)
    assert grammars_for(BASE, True, tokenizer, len(tokenizer)) is None
    assert "llguidance cannot read the pieces of this tokenizer" in capsys.readouterr().out


def test_a_decoder_that_says_two_things_is_read_as_bytes(benchmark):
    """As transformers 5.17 makes it of a GGUF file: pieces with spaces and bytes, of which only the latter are there."""
    tokenizers = pytest.importorskip("tokenizers")
    pieces = {piece: number for number, piece in enumerate(["<end>", *map(chr, range(33, 127)), "Ġ", "ĠS", "SE"])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(pieces, [("Ġ", "S"), ("S", "E")]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    kinds = [tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse(), tokenizers.decoders.Replace("▁", " ")]
    backend.decoder = tokenizers.decoders.Sequence([*kinds, tokenizers.decoders.ByteLevel()])
    fast = llama_65b.Tokenizer(tokenizer_object=backend, eos_token="<end>", pad_token="<end>")
    grammars = grammars_for(BASE, True, fast, len(fast))
    schema = next(iter(benchmark.schemas.values()))
    matcher = grammars.matcher(schema)
    ids = fast(f" SELECT * FROM {schema.tables[0]}").input_ids
    assert matcher.consume_tokens(ids) and matcher.is_accepting()


def test_without_llguidance_one_line_names_the_remedy(benchmark, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UserError, match=r"pip install llguidance==1\.9\.1\), or answer without it: --no-constrained"):
        grammars_for(BASE, True, tokenizer, len(tokenizer))
    assert grammars_for(BASE, False, tokenizer, len(tokenizer)) is None


@pytest.mark.parametrize("name", ["T5_3B", "flan_t5_base", "gpt_neox_20b", "llama_65b"])
def test_a_run_without_llguidance_ends_before_it_touches_anything(run, little, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "args.json").write_text("{}")
    with pytest.raises(UserError, match="or answer without it: --no-constrained"):
        run(importlib.import_module(name))
    assert (tmp_path / "run" / "args.json").read_text() == "{}"


def test_a_table_of_many_columns_gives_no_piece_that_llguidance_cannot_hold(benchmark):
    db_id = benchmark.splits["train"][0].db_id
    schema = benchmark.schemas[db_id]
    columns = [f"billing_address_of_the_customer_{number}" for number in range(60)]
    wide = replace(schema, columns=schema.columns + tuple((0, column) for column in columns),
                   column_types=schema.column_types + ("text",) * 60)  # fmt: skip
    own = replace(benchmark, schemas=benchmark.schemas | {db_id: wide})
    tokenizer = llama_65b.load_tokenizer(replace(llama_65b.Args(), **llama_65b.TINY, tiny=True), own)
    assert max(len(piece.encode()) for piece in tokenizer.get_vocab()) < 1024
    assert grammars_for(BASE, True, tokenizer, len(tokenizer)).matcher(wide)


class PanicException(BaseException):
    """Called as the one that a panic in Rust raises."""


@pytest.mark.parametrize("error", [PanicException, ValueError])
def test_a_vocabulary_that_llguidance_cannot_read_ends_no_run(tokenizer, monkeypatch, capsys, error):
    def vocabulary(*_):
        raise error("assertion failed")

    monkeypatch.setattr(constrained, "vocabulary", vocabulary)
    assert grammars_for(BASE, True, tokenizer, len(tokenizer)) is None
    assert "llguidance cannot read the pieces of this tokenizer" in capsys.readouterr().out
