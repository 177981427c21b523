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
from data.with_torch.search import Hypotheses, does_not_fit


class Questions:
    """This rank's share of examples, in batches: long prompts first, those of a schema side by side.

    `examples` have the columns of `data.training.cache.encoded`; `options` are a script's, by name.
    """

    def __init__(self, examples: Dataset, schemas: Mapping[str, Schema], options: Mapping, accelerator: Accelerator):
        self.options, self.schemas = options, schemas
        self.inputs, self.names = examples["input_ids"][:], examples["db_id"][:]
        self.shared = examples["shared"][:] if "shared" in examples.column_names else [0] * len(examples)
        limit, shared, inputs = options["max_input_tokens"], self.shared, self.inputs
        self.too_long = {i: too_long(len(ids), limit) for i, ids in enumerate(inputs) if len(ids) > limit}
        order = sorted(range(len(inputs)), key=lambda i: (-shared[i], inputs[i][: shared[i]], -len(inputs[i])))
        self.waiting = [i for i in order if i not in self.too_long][accelerator.process_index :: accelerator.num_processes]
        self.written = {i: Hypotheses() for i in self.waiting}
        self.chosen: list[int] = []
        self.max_tokens = sys.maxsize  # of a batch
        shown = accelerator.is_main_process and sys.stderr.isatty()
        self.bar = tqdm(total=len(self.waiting), desc="predict", disable=not shown)

    def batch(self) -> list[dict]:
        """The next of --eval_batch_size at most: input_ids, shared, their database's schema, and what was written before."""
        most = self.options["eval_batch_size"]
        self.longest = max((len(self.inputs[i]) for i in self.waiting[:most]), default=0) + self.options["max_output_tokens"]
        self.chosen = self.waiting[: max(1, min(most, self.max_tokens // self.longest))]
        columns = self.inputs, self.shared, [self.schemas[name] for name in self.names], self.written
        return [dict(zip(("input_ids", "shared", "schema", "before"), (column[i] for column in columns))) for i in self.chosen]

    @contextmanager
    def halved(self) -> Iterator[None]:
        """A batch that does not fit the memory comes again in halves."""
        try:
            yield
        except RuntimeError as error:
            size = len(self.chosen)
            if size == 1 or not does_not_fit(error):
                raise
            self.max_tokens = size * self.longest // 2
            print(f"{size} examples of up to {self.longest} tokens do not fit the memory: going on with "
                  f"{self.max_tokens // self.longest} a batch")  # fmt: skip

    def take(self, answers: Sequence[Hypotheses]) -> None:
        """Keep what was written to a batch; what can go on comes again."""
        self.written |= zip(self.chosen, answers)
        more = [i for i in self.chosen if not self.written[i].done]
        self.waiting = self.waiting[len(self.chosen) :] + more
        self.bar.update(len(self.chosen) - len(more))

    def answers(self, tokenizer) -> list[list[dict]] | None:
        """Up to --num_beams candidates to each example of all ranks, likeliest first; None where some were not asked."""
        own = [] if self.waiting else [(i, one.best(self.options["num_beams"])) for i, one in self.written.items()]
        found = self.too_long | {i: candidates(some, tokenizer, tokenizer.eos_token_id) for i, some in gather_object(own)}
        return [found[i] for i in range(len(self.inputs))] if len(found) == len(self.inputs) else None
