"""A run's examples as tokens, for training and evaluation, its updates, and warnings about them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from data.answers.grammar import outside, outside_line
from data.benchmark import sample, spider
from data.benchmark.schema import Benchmark
from data.common.errors import UserError
from data.training.batches import GROUP_SIZE, area, describe, epoch_updates, packed_passes, padded_passes, shared_tokens
from data.training.cache import encoded
from data.training.health import OUTSIDE, example_warnings
from data.training.variation import vary

if TYPE_CHECKING:
    import datasets


def load_benchmark(options: Mapping, base: Mapping) -> Benchmark:
    """The benchmark that a script's options name; `base` is that of `checkpoints.base_of`. Raises UserError."""
    directory = sample.directory_of(options["data"])
    chosen = {name: options[name] for name in ("train_others", "overfit")}
    if options["overfit"]:
        splits = ("train",)
    else:
        splits = (options["split"],) if options["eval_only"] else ("train", options["split"])
    return spider.load(directory, splits, **chosen, **{name: base[name] for name in ("plain_sql", "values", "full_names")})


class TrainingData:
    """The examples of a run as tokens, and its updates.

    `train` and `dev`: datasets with the columns of `cache.encoded`. `train` lacks questions that are too long; without a
    training split it is the evaluated split. `dev` holds --eval_examples of the evaluated split, evenly spaced.
    `updates`: optimiser steps of the whole run; `per_update`: examples in each, over all ranks. `outside`, after `health`: how
    many training answers are outside the grammar that answers are held to.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        options: Mapping,
        encode: Callable,
        tokenizer,
        padded: bool = False,
        one_row: bool = False,
        **how: object,
    ):
        """Encode the examples, or read them from the cache.

        `options` are a script's, by name; `encode`, `tokenizer` and `how` go to `encoded`; `share` in `how` says that examples
        share schemas. `padded`: prompts and answers are padded separately, not packed. `one_row`: packed passes are one row.
        Raises UserError where all questions are too long.
        """
        self.options, self.tokenizer, self.padded, self.one_row = options, tokenizer, padded, one_row
        evaluated, learned = benchmark.evaluated, "train" if "train" in benchmark.splits else benchmark.evaluated
        self.learned, self.described, self.outside = benchmark.splits[learned], benchmark.schemas, 0

        def tokens_of(asked: Benchmark, split: str) -> "datasets.Dataset":
            return encoded(asked.splits[split], asked.schemas, encode, tokenizer, options["max_input_tokens"], **how)

        self.train = tokens_of(benchmark, learned)
        fitting = self._fitting(self.train)
        if not fitting:
            raise UserError(f"all {len(self.train):,} questions are longer than --max_input_tokens: raise it, or shorten them")
        self.questions, self.left_out = len(fitting), len(self.train) - len(fitting)
        self.per_update = options["update_examples"]
        epoch = -(-self.questions // self.per_update)
        self.updates = 0 if options["eval_only"] else options["max_updates"] or options["epochs"] * epoch
        omitted = options["vary_schema"] if self.updates else 0.0
        self.variants = max(1, -(-self.updates // epoch)) if omitted else 1  # number of epochs begun
        if omitted:
            short = [benchmark.splits[learned][i] for i in fitting]
            asked = replace(benchmark, splits=benchmark.splits | {learned: short})
            together = GROUP_SIZE if how.get("share") else 1
            self.train = tokens_of(vary(asked, omitted, self.variants, options["seed"], together), learned)
        elif self.left_out:
            self.train = self.train.select(fitting)
        dev = tokens_of(benchmark, evaluated)
        count = min(options["eval_examples"] or len(dev), len(dev))
        self.dev = dev.select([i * len(dev) // count for i in range(count)])
        self.prompts, self.answers = ([len(ids) for ids in self.train[column][:]] for column in ("input_ids", "labels"))
        self.lengths = [sum(pair) for pair in zip(self.prompts, self.answers)]
        shared = self.train["shared"][:] if how.get("share") else [0] * len(self.train)
        # a schema that was shortened for one question is not the others'
        alone = [not tokens or cut for tokens, cut in zip(shared, self.train["shortened"][:])]
        names = [i if alone[i] else name for i, name in enumerate(self.train["db_id"][:])]
        self.schemas = list(zip(names, shared))

    def _fitting(self, rows: "datasets.Dataset") -> list[int]:
        """Indices of the questions that fit --max_input_tokens, with schemas shortened as far as needed."""
        return [i for i, ids in enumerate(rows["input_ids"][:]) if len(ids) <= self.options["max_input_tokens"]]

    def check(self, ranks: int) -> None:
        """Raise UserError where updates have fewer examples than ranks, or --batch_tokens is less than the longest example."""
        given, longest = self.options["batch_tokens"], max(self.lengths, default=0)
        if self.updates and self.per_update < ranks:
            raise UserError(f"--update_examples {self.per_update} is less than one for each of {ranks} GPUs: raise it")
        if self.updates and 0 < given < longest:
            raise UserError(f"--batch_tokens {given} is less than the longest example's {longest}: raise it, or lower "
                            "--max_input_tokens")  # fmt: skip

    def health(self, ending: str, collate: Callable, held: bool = False, joined: bool = False) -> tuple[str, list[str]]:
        """A description of the training examples, and warnings about them.

        `held`: answers are held to a grammar; other arguments as for `example_warnings`.
        """
        count = self.questions
        line = describe(self.prompts[:count], self.answers[:count], self.schemas[:count], self.per_update)
        warnings = example_warnings(self.train.select(range(count)), self.tokenizer, ending, collate, joined)
        shortened = sum(self.train["shortened"][:count])
        learned = self.tokenizer.decode(self.train[0]["labels"])
        longer = f"are longer than --max_input_tokens {self.options['max_input_tokens']:,}"
        if self.left_out and self.updates:
            warnings.append(f"{self.left_out:,} of {count + self.left_out:,} questions {longer}: they are left out of training")
        if held and self.updates:
            found, looked = outside(self.learned, self.described)
            self.outside = len(found)
            if self.outside > OUTSIDE * looked:
                warnings.append(outside_line(found, looked, len(self.learned), "training answers"))
        if unasked := len(self.dev) - len(self._fitting(self.dev)):
            warnings.append(f"{unasked:,} of {len(self.dev):,} questions {longer}: they are not asked, and count as wrong")
        return (
            f"{count:,} {'training ' if self.updates else ''}examples, {shortened} with a shortened schema | {line}\n"
            f"the first answer as the model learns it: {learned}"
        ), warnings

    def passes(self, ranks: int, max_tokens: int, start: int = 0, stop: int | None = None) -> list[list[list[list[int]]]]:
        """For each update from `start` to `stop` its forward passes, each a list of examples per rank.

        A rank's pass has at most `max_tokens` and, unless 0, --batch_size examples; neither changes what an update holds.
        """
        count, most, found = self.questions, self.options["batch_size"], []
        updates_per_epoch = -(-count // self.per_update)
        for update in range(start, self.updates if stop is None else min(stop, self.updates)):
            epoch, place = divmod(update, updates_per_epoch)
            if not found or not place:
                first = epoch % self.variants * count
                own = slice(first, first + count)
                updates = epoch_updates(self.lengths[own], self.schemas[own], self.per_update, self.options["seed"], epoch)
            chosen = [first + index for index in updates[place]]
            if self.padded:
                found.append(padded_passes(chosen, self.prompts, self.answers, ranks, max_tokens, most))
            else:
                found.append(packed_passes(chosen, self.lengths, self.schemas, ranks, max_tokens, most, self.one_row))
        return found

    def area(self, examples: Sequence[int]) -> int:
        """The tokens of a forward pass of these examples, padding included; packed ones are then rounded up."""
        if self.padded:
            return len(examples) * (max(self.prompts[i] for i in examples) + max(self.answers[i] for i in examples))
        return area(shared_tokens(examples, self.lengths, self.schemas), self.one_row)

    def tokens(self, passes: Sequence[Sequence[Sequence[int]]]) -> tuple[int, int]:
        """(tokens of prompts, tokens of answers) of an update's passes; a shared schema counts once per rank's pass."""
        batches = [batch for each in passes for batch in each]
        answers = sum(self.answers[i] for batch in batches for i in batch)
        return sum(sum(shared_tokens(batch, self.prompts, self.schemas)) for batch in batches), answers
