"""Checks before a run's first update: whether the tokens and the first loss are what they should be.

A model with wrong tokens trains smoothly all the same: its loss falls, but its answers are bad. `tests/bench/why.py` measures
what such faults cost.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from data.benchmark.prompt import target

if TYPE_CHECKING:
    import datasets

SHORTENED = 0.1  # share of prompts that may lose parts of their schema
OUTSIDE = 0.01  # share of training answers that may be outside the grammar of answers, as 0.13 % of Spider's are
READ = 200  # examples that are decoded, evenly spaced
TAIL = 16  # last tokens of a prompt, in which its end is looked for
WORSE, BETTER = 0.9, 0.05  # limits of a pretrained model's first loss: as a share of ln(vocabulary); in nats
RANDOM = (0.5, 1.5)  # limits of the first loss of random weights, as shares of ln(vocabulary)
LEARNED = 0.1  # nats per token, below which answers should be right
KEYS = "primarykey:["  # in every prompt, near its end, whatever is left out


def example_warnings(train: "datasets.Dataset", tokenizer, ending: str, collate: Callable, joined: bool) -> list[str]:
    """Warnings about the tokens that a model is about to see, in plain words.

    `ending` and `joined` are those of `token_warnings` and `batch_warnings`. `collate(rows, pad)` returns what the model is
    trained on, tensors by name.
    """
    order = sorted(range(len(train)), key=list(map(len, train["input_ids"][:])).__getitem__)
    rows = [train[i] for i in (order[0], order[len(order) // 2], order[-1])]
    batch = {name: tensor.tolist() for name, tensor in collate(rows, tokenizer.pad_token_id).items()}
    return token_warnings(train, tokenizer, ending, joined) + batch_warnings(batch, rows, joined)


def token_warnings(train: Mapping[str, Sequence], tokenizer, ending: str, joined: bool) -> list[str]:
    """Warnings about the tokens of the training examples, in plain words.

    `train` has the columns `sql`, `input_ids` and `labels` (token ids) and `shortened`; `tokenizer` is one of transformers;
    `ending` is what every prompt has to end with; `joined`: the model reads prompt and SQL as one sequence, else each prompt
    ends with an end-of-sequence token.
    """
    # whole columns: reading a dataset row by row is slow
    inputs, labels, sql = (train[name][:] for name in ("input_ids", "labels", "sql"))
    count, warnings = len(labels), []
    if (short := sum(train["shortened"][:])) > SHORTENED * count:
        warnings.append(f"{short:,} of {count:,} prompts lost schema that their SQL may need: raise --max_input_tokens")
    unknown = sum(ids[:-1].count(tokenizer.unk_token_id) for ids in labels)
    if unknown:
        warnings.append(
            f"{unknown:,} tokens in SQL are unknown to the vocabulary, and are never written: add their pieces to it"
        )
    first, end, lacking = getattr(tokenizer, "bos_token_id", None), tokenizer.eos_token_id, tokenizer.unk_token_id
    strange = [ids.count(lacking) for ids in inputs if lacking not in (None, first, end) and lacking in ids]
    if strange:
        warnings.append(f"{sum(strange):,} tokens in {len(strange):,} of {count:,} prompts are unknown to the vocabulary, and "
                        "all read alike: take a model that knows the script")  # fmt: skip
    inner = (ids[first == end :] if joined else ids[:-1] for ids in inputs)
    if ended := sum(end in ids for ids in inner):
        warnings.append(f"{ended:,} of {count:,} prompts hold an end of sequence that the tokenizer adds by itself, and what "
                        "stands before it may be lost: set add_eos_token to false in its tokenizer_config.json")  # fmt: skip
    if endless := sum(ids[-1:] != [tokenizer.eos_token_id] for ids in labels):
        warnings.append(f"{endless:,} of {count:,} labels lack the end of sequence: answers will not end")
    some = range(0, count, max(1, count // READ))
    texts = tokenizer.batch_decode([labels[i] for i in some], skip_special_tokens=True)
    changed = [(i, text) for i, text in zip(some, texts) if squeezed(text) != squeezed(target(sql[i]))]
    if changed:
        index, text = changed[0]
        warnings.append(f"{len(changed):,} of {len(some):,} labels do not read as their SQL: example {index} is "
                        f"{target(sql[index])!r}, and the model learns {text!r}")  # fmt: skip
    tails = tokenizer.batch_decode([ids[-TAIL:] for ids in inputs], skip_special_tokens=True)
    if cut := sum(not text.rstrip().endswith(ending) for text in tails):
        warnings.append(f"{cut:,} of {count:,} prompts do not end with {ending!r}: something cuts their end, where the keys "
                        "and the cue stand")  # fmt: skip
    whole = tokenizer.batch_decode([inputs[i] for i in some], skip_special_tokens=True)
    if cut := sum(KEYS not in squeezed(text) for text in whole):
        warnings.append(f"{cut:,} of {len(some):,} prompts lack their keys: something cuts their end")
    return warnings


def squeezed(text: str) -> str:
    """Text without white space, in which decoded text may differ."""
    return "".join(text.split())


def batch_warnings(batch: Mapping[str, Sequence[Sequence[int]]], rows: Sequence[Mapping], joined: bool) -> list[str]:
    """Warnings about how examples are collated, in plain words.

    `batch` holds `input_ids` and `labels` of the examples `rows`, as lists, as the model is trained on them. `joined`:
    prompt and SQL are one sequence, as a decoder-only model learns them.
    """
    warnings = []
    counted = [i for labels in batch["labels"] for i in labels if i != -100]
    answers = sum(len(row["labels"]) for row in rows)
    if len(counted) > answers:
        warnings.append(f"{len(counted):,} label tokens count in a batch that has {answers:,} of SQL: the loss says \"predict "
                        "padding\" or learns the prompt; both are -100 in labels")  # fmt: skip
    if len(counted) < answers:
        warnings.append(f"{len(counted):,} label tokens count in a batch that has {answers:,} of SQL: labels are cut or masked")
    if not joined:
        return warnings
    pairs = [pair for ids, labels in zip(batch["input_ids"], batch["labels"]) for pair in zip(ids, labels) if pair[1] != -100]
    if any(seen != label for seen, label in pairs) or any(labels[:1] != [-100] for labels in batch["labels"]):
        warnings.append("labels lie over other tokens than their own: prompt and SQL are one sequence, the prompt masked")
    return warnings


def first_loss(loss: float, vocabulary: int, pretrained: bool) -> tuple[str, list[str]]:
    """-> (a line that compares the first loss, in nats per token, with a guess, warnings).

    A uniform guess among `vocabulary` tokens costs ln(vocabulary).
    """
    guess = math.log(vocabulary)
    line = f"the first loss is {loss:.2f}; a guess among {vocabulary:,} tokens costs {guess:.2f}"
    if pretrained and loss > WORSE * guess:
        warning = "a pretrained model knows better than to guess: labels, weights and tokenizer do not belong together"
    elif pretrained and loss < BETTER:
        warning = "so low before any update: the model has learned these examples, or finds the answers in its input"
    elif not pretrained and not RANDOM[0] * guess < loss < RANDOM[1] * guess:
        warning = "random weights should cost about a guess: labels or the output layer are wrong"
    else:
        return line, []
    return line, [warning]


def learned(right: int, count: int, loss: float, outside: int) -> str:
    """A verdict on the pipeline after training on `count` examples alone, of which `right` are then answered right.

    `outside` of them are outside the grammar that answers are held to.
    """
    result = f"{right} of the {count} examples are answered right, loss {loss:.3f}"
    if outside:
        result += f"; {outside} of them are outside the grammar that answers are held to (--no-constrained answers freely)"
    if right >= 0.9 * count:
        return f"the pipeline can learn: {result}"
    cause = ""
    if loss >= LEARNED:
        cause = (
            "; the loss is still high: train longer (--max_updates), at a higher --learning_rate, or with LoRA on more layers"
        )
    elif right + outside < 0.9 * count:
        cause = (
            "; the loss is low, so what is generated is not what was learned: look at the prompt, the padding and the end of "
            "answers"
        )
    return f"the pipeline does NOT learn: {result}{cause}"
