"""A small tokenizer made from the benchmark itself, for models without a vocabulary of their own."""

from collections import Counter
from math import log
from typing import TYPE_CHECKING

from data.benchmark.prompt import CUE, prompt, target
from data.benchmark.schema import Benchmark

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# candidates for pieces: a line of the schema, a word, any other character; "▁" stands for a space
LINES = "Table▁[^]]*]|(?:foreign|primary)▁key:[^]]*]|"
WORDS = "\\w+|[^\\w▁]"
LONGEST = 1000  # bytes of a piece; llguidance takes no more than 1,024
LETTERS = 128  # pieces reserved for characters


def word_tokenizer(
    benchmark: Benchmark, special: list[str], lacking: str = "", first: str = "", size: int = 1900
) -> "Tokenizer":
    """A Unigram model of the `size` most frequent words, and of characters, of the training (or else the evaluated) split.

    It has up to size + LETTERS pieces. `special` are its first pieces, the last of them the unknown one; `first`, one of them,
    begins each text; no piece contains a character of `lacking`. Pieces for whole lines of schema keep the prompts of a small
    benchmark short enough for training on a CPU.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(Regex(r"\s+"), "▁")])
    tokenizer.decoder = decoders.Metaspace()
    texts: Counter[str] = Counter()  # counts, as many questions share their schema
    for example in benchmark.splits.get("train") or benchmark.splits[benchmark.evaluated]:
        said = prompt(example.question, benchmark.schemas[example.db_id], example.values)
        texts.update([*said.split("\n", 1), target(example.sql)])
    for lines in (LINES, ""):  # a table of very many columns is read in words
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"▁?(?:{lines}{WORDS})"), "removed", invert=True)
        counts: Counter[str] = Counter()
        for text, times in texts.items():
            normal = tokenizer.normalizer.normalize_str(text)
            for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal):
                counts[word] += times
        if max(len(word.encode()) for word in counts) <= LONGEST:
            break
    letters: Counter[str] = Counter()
    for word, times in counts.items():
        letters.update({letter: times for letter in word})
    # a script of thousands of characters leaves room for fewer words
    own = {*CUE.strip(), *(letter for letter, _ in letters.most_common(size // 2))}
    pieces = dict.fromkeys(sorted(own), -20.0)  # rarer than any word
    words = counts.most_common(min(size, size + LETTERS - len(own)))
    pieces |= {word: log(count / counts.total()) for word, count in words}
    known = [(piece, score) for piece, score in pieces.items() if not set(piece) & set(lacking)]
    tokenizer.model = models.Unigram([*((name, 0.0) for name in special), *known], unk_id=len(special) - 1)
    if first:
        begins = [(first, special.index(first))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{first} $A", special_tokens=begins)
    return tokenizer
