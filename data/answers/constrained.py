"""Constrain a model's answers, token by token, to the grammar of their database (`data/answers/grammar.py`), by llguidance.

    https://github.com/guidance-ai/llguidance

Nothing here needs torch: masks are written to the caller's pointer.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from data.answers.grammar import compiled, grammar, is_plain_text
from data.benchmark.prompt import name
from data.benchmark.schema import Schema
from data.common.errors import UserError, printable
from data.common.output import say

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

REMEDY = "install it (pip install llguidance==1.9.1), or answer without it: --no-constrained"


def grammars_for(base: Mapping, constrained: bool, tokenizer, logits: int) -> "Grammars | None":
    """The grammars for answers; None without `constrained`, or where no grammar fits the run's spelling or tokenizer.

    `base` is that of `checkpoints.base_of`, `tokenizer` a fast one of transformers, `logits` the number that a model gives
    for each token. Raises UserError where llguidance is not installed.
    """
    if not constrained or not (base["full_names"] or base["plain_sql"]):
        return None
    pieces = tokenizer(PROBE, add_special_tokens=False).input_ids
    known = [piece for piece in pieces if piece != tokenizer.unk_token_id]
    try:
        grammars = Grammars(tokenizer, logits)
        if grammars.vocabulary.decode_str(known).split() == tokenizer.decode(known).split():
            return grammars
    except BaseException as error:  # a decoder that it does not know, or a panic of Rust's, which is no Exception
        if not isinstance(error, ValueError) and type(error).__name__ != "PanicException":
            raise
    say("answers are not checked against their schemas: llguidance cannot read the pieces of this tokenizer")
    return None


PROBE = " SELECT count(*) FROM a_1 WHERE b <= 'it is 2.5'"  # a text to try the vocabulary on


class Grammars:
    """The grammars of databases for one vocabulary, each compiled when first needed."""

    def __init__(self, tokenizer, logits: int):
        try:
            from llguidance import LLExecutor
        except ImportError:
            raise UserError(f"answers are held to a grammar by llguidance, which is not installed: {REMEDY}") from None
        self.size, self.tokenizer, self.unknown = logits, tokenizer, tokenizer.unk_token_id
        self.vocabulary, self.head = vocabulary(tokenizer, logits)
        self.executor = LLExecutor()
        self.compiled: dict[Schema, LLMatcher | None] = {}
        self.unchecked: set[str] = set()

    def matcher(self, schema: Schema) -> "LLMatcher | None":
        """A matcher at the beginning of an answer; None, with one printed line, where the schema has no grammar."""
        if schema not in self.compiled:
            self.compiled[schema] = self._compile(schema)
        matcher = self.compiled[schema]
        return matcher and matcher.deep_copy()

    def _compile(self, schema: Schema) -> "LLMatcher | None":
        names = [*schema.tables, *(column for table, column in schema.columns if table >= 0)]
        written = {each: self.tokenizer(name(each), add_special_tokens=False).input_ids for each in names}
        left_out = {each for each, pieces in written.items() if self.unknown in pieces or not is_plain_text(each)}
        try:
            matcher = compiled(self.vocabulary, self.head + grammar(schema, left_out))
        except ValueError as error:
            self.give_up(schema, str(error))
            return None
        if left_out:
            which = "which hold line breaks, or what the model's vocabulary cannot write"
            print(
                printable(f"answers about {schema.db_id} leave out {len(left_out):,} of its names, {which}: {min(left_out)!r}")
            )
        return matcher

    def give_up(self, schema: Schema, reason: str) -> None:
        """Print, once per schema, why answers about it are not checked."""
        if schema.db_id not in self.unchecked:
            first = reason.strip().splitlines()[0][:200]
            print(printable(f"not all answers about {schema.db_id} are checked against its schema: {first}"))
            self.unchecked.add(schema.db_id)


def vocabulary(tokenizer, logits: int) -> tuple["LLTokenizer", str]:
    """llguidance's form of a fast tokenizer of transformers, and the text that grammars for it begin with."""
    from llguidance import LLTokenizer
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    spec, head = json.loads(backend.to_str()), ""
    # llguidance infers from the decoder how spaces are written and whether tokens are bytes
    if "ByteLevel" in json.dumps([spec["pre_tokenizer"], spec["decoder"]]):
        spec["decoder"] = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    elif spec["model"]["type"] == "Unigram":  # like T5's, which llguidance does not know
        kinds = [dict(type="Replace", pattern=dict(String="▁"), content=" "), dict(type="ByteFallback"), dict(type="Fuse")]
        spec["decoder"] = dict(type="Sequence", decoders=kinds)
        # llguidance would tokenise forced text again, into other pieces than a Unigram model writes
        head = '%llguidance {"no_forcing": true}\n'
    size = max(logits, len(tokenizer))
    return LLTokenizer(json.dumps(spec), n_vocab=size, eos_token=tokenizer.eos_token_id), head


class ConstrainedBatch:
    """The unfinished answers of a batch, in `beams` slots per question, and which tokens may follow in each slot."""

    def __init__(self, grammars: Grammars, schemas: Sequence[Schema | None], beams: int):
        """`schemas`: each question's, None for none; its answer begins in its first slot."""
        self.grammars, self.beams, self.schemas = grammars, beams, schemas
        self.words = (grammars.vocabulary.vocab_size + 31) // 32  # of a mask, with a bit per token
        self.slots: list[LLMatcher | None] = []
        for schema in schemas:
            self.slots += [schema and grammars.matcher(schema), *[None] * (beams - 1)]

    def advance(self, parents: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]) -> None:
        """`parents`, `tokens`: for each question and slot, the slot that it continues and its next token; -1: it ends."""
        before, self.slots, moves, taken = self.slots, [], [], set()
        for question, (sources, following) in enumerate(zip(parents, tokens)):
            for source, token in zip(sources, following):
                origin = question * self.beams + source
                matcher = before[origin] if token >= 0 else None
                if matcher:
                    # several slots continue this one: copy it before any of them moves
                    matcher = matcher.deep_copy() if origin in taken else matcher
                    taken.add(origin)
                    moves.append((matcher, token))
                self.slots.append(matcher)
        if moves:
            self.grammars.executor.consume_token_par(moves)

    def masks(self, pointer: int) -> list[int]:
        """Write a row of `words` 32-bit words for each slot to `pointer`, a bit per token -> the slots without a grammar.

        The rows of the latter mean nothing. They include slots in which llguidance allows no token or fails, which go on
        unconstrained rather than lose their answers.
        """
        live = [(matcher, row) for row, matcher in enumerate(self.slots) if matcher]
        if live:
            self.grammars.executor.unsafe_compute_mask_ptr(live, pointer, 4 * self.words, len(self.slots))
        for matcher, row in live:
            if matcher.is_error():
                self.grammars.give_up(self.schemas[row // self.beams], matcher.get_error())
                self.slots[row] = None
        return [row for row, matcher in enumerate(self.slots) if not matcher]
