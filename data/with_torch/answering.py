"""The questions of an evaluation in batches that fit the memory, and their answers."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from tqdm import tqdm

from data.answers.candidates import candidates, too_long
from data.benchmark.schema import Schema
from data.run.signals import Stop
from data.with_torch.search import Answers, does_not_fit

COLUMNS = 64  # of a question with one beam; four, which share beginnings, have 96, of which Spider's take 43 in the mean
FEW = 8  # a batch is over when no more than one in so many of its questions is unfinished, and others wait


class Questions:
    """This rank's share of examples, in batches: long prompts first, those of a schema side by side; none once `stop` is asked.

    `examples` have the columns of `data.training.cache.encoded`; `options` are a script's, by name.
    """

    def __init__(
        self, examples: Dataset, schemas: Mapping[str, Schema], options: Mapping, accelerator: Accelerator, stop: Stop
    ):
        self.options, self.schemas, self.stop = options, schemas, stop
        self.inputs, self.names = examples["input_ids"][:], examples["db_id"][:]
        self.shared = examples["shared"][:] if "shared" in examples.column_names else [0] * len(examples)
        limit, shared, inputs = options["max_input_tokens"], self.shared, self.inputs
        self.too_long = {i: too_long(len(ids), limit) for i, ids in enumerate(inputs) if len(ids) > limit}
        order = sorted(range(len(inputs)), key=lambda i: (-shared[i], inputs[i][: shared[i]], -len(inputs[i])))
        self.waiting = [i for i in order if i not in self.too_long][accelerator.process_index :: accelerator.num_processes]
        self.written: dict[int, Answers] = {}
        self.chosen: list[int] = []
        columns = max(COLUMNS, COLUMNS * (2 + options["num_beams"]) // 4)
        self.columns = dict.fromkeys(self.waiting, columns)  # its share of a pack's room for answers, in tokens
        self.max_tokens, self.smaller = sys.maxsize, False  # of a batch; whether it became smaller, which is not said yet
        shown = accelerator.is_main_process and sys.stderr.isatty()
        self.bar = tqdm(total=len(self.waiting), desc="predict", disable=not shown)

    def batch(self) -> list[dict]:
        """The next of --eval_batch_size at most: input_ids, shared, their database's schema, and `columns` of their answers."""
        most = self.options["eval_batch_size"]
        self.longest = max((len(self.inputs[i]) for i in self.waiting[:most]), default=0) + self.options["max_output_tokens"]
        self.chosen = [] if self.stop.requested else self.waiting[: max(1, min(most, self.max_tokens // self.longest))]
        fields = self.inputs, self.shared, [self.schemas[name] for name in self.names], self.columns
        return [dict(zip(("input_ids", "shared", "schema", "columns"), (each[i] for each in fields))) for i in self.chosen]

    def enough(self, left: int) -> bool:
        """Whether to leave the `left` unfinished questions of a batch to a later one, or to no one."""
        others = len(self.waiting) > len(self.chosen)
        return left <= others * len(self.chosen) // FEW or self.stop.requested

    @contextmanager
    def fewer(self) -> Iterator[None]:
        """A batch that does not fit the memory comes again with an eighth less."""
        try:
            yield
        except RuntimeError as error:
            size = len(self.chosen)
            if size == 1 or not does_not_fit(error):
                raise
            self.max_tokens, self.smaller = max(1, size * 7 // 8) * self.longest, True

    def take(self, answers: Sequence[Answers | None]) -> None:
        """Keep what was written to a batch; questions without answers come again, with more columns."""
        if self.smaller:
            self.smaller = False
            print(f"{len(self.chosen)} questions of up to {self.longest} tokens are answered at a time: more do not fit memory")
        self.written |= {i: own for i, own in zip(self.chosen, answers) if own is not None}
        again = [i for i in self.chosen if i not in self.written]
        # where most of a batch want more, others will, too
        alike = self.waiting if 2 * len(again) > max(FEW, len(self.chosen)) else again
        self.columns |= {i: 2 * self.columns[i] for i in alike}
        self.waiting = self.waiting[len(self.chosen) :] + again
        self.bar.update(len(self.chosen) - len(again))

    def answers(self, tokenizer) -> list[list[dict]] | None:
        """Up to --num_beams candidates to each example of all ranks, likeliest first; None where some were not asked."""
        own = [] if self.waiting else [*self.written.items()]
        found = self.too_long | {i: candidates(some, tokenizer, tokenizer.eos_token_id) for i, some in gather_object(own)}
        return [found[i] for i in range(len(self.inputs))] if len(found) == len(self.inputs) else None
