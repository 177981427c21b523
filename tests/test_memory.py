"""How many tokens a forward pass gets: what a GPU has memory for is stood in for by a number of tokens."""

import sys
from types import SimpleNamespace

import pytest
import torch

from data.common.errors import UserError
from data.training.batches import area, packed_passes, shared_tokens
from data.with_torch import memory

UPDATE, UPDATES = 32, 4


class Data:
    """Examples of four schemas, in updates of 32, of which the second takes most tokens with its padding."""

    def __init__(self, batch_tokens: int = 0):
        self.options = dict(batch_tokens=batch_tokens)
        self.questions = UPDATE * UPDATES
        self.updates, self.per_update, self.padded = UPDATES, UPDATE, False
        self.lengths = [300 + 7 * (i % 13) + 40 * (UPDATE <= i < 2 * UPDATE) for i in range(self.questions)]
        self.schemas = [(i % 4, 200) for i in range(self.questions)]
        self.train = list(range(self.questions))

    def passes(self, ranks: int, room: int, start: int, stop: int) -> list:
        updates = [list(range(number * UPDATE, (number + 1) * UPDATE)) for number in range(start, min(stop, UPDATES))]
        return [packed_passes(update, self.lengths, self.schemas, ranks, room) for update in updates]

    def area(self, examples: list[int]) -> int:
        return area(shared_tokens(examples, self.lengths, self.schemas))


@pytest.fixture
def room(monkeypatch):
    """`room(limit, data)`: --batch_tokens, found out where passes of so many tokens fit, and those that were tried."""

    def go(limit: int, data: Data, recomputed: int = 0) -> tuple[int, list[int]]:
        tried, layers = [], [SimpleNamespace() for _ in range(4)]
        # what is tried last is what `collate` was given last
        collate = lambda rows: dict(x=SimpleNamespace(to=lambda device: tried.append(data.area(rows))))  # noqa: E731

        def fits(learn, kept, device) -> bool:
            more = recomputed * sum(layer.gradient_checkpointing for layer in layers)
            return tried[-1] <= limit + more

        monkeypatch.setattr(memory, "fits", fits)
        accelerator = SimpleNamespace(num_processes=1, device=SimpleNamespace(type="cuda"), print=lambda text: None)
        found = memory.forward_tokens(data, "auto", accelerator, layers, [], None, collate, 0)
        return found, tried

    return go


def whole(data: Data) -> int:
    return max(data.area(own) for passes in data.passes(1, sys.maxsize, 0, UPDATES) for (own,) in passes)


def test_an_update_that_fits_as_a_whole_is_one_pass(room):
    """Also where another than the first has most padding: a second pass for it would read all weights again."""
    data = Data()
    tokens, tried = room(10**9, data)
    assert max(tried) == tokens == whole(data) > data.area(data.passes(1, sys.maxsize, 0, 1)[0][0][0])
    assert [len(passes) for passes in data.passes(1, tokens, 0, UPDATES)] == [1] * UPDATES


@pytest.mark.parametrize("limit", [1000, 2500, 4000])
def test_passes_are_somewhat_smaller_than_the_largest_that_fit(room, limit):
    data = Data()
    tokens, tried = room(limit, data)
    assert max(data.lengths) <= tokens < whole(data) and min(tried) <= limit < max(tried)
    assert all(data.area(own) <= limit for passes in data.passes(1, tokens, 0, UPDATES) for (own,) in passes)


def test_layers_recompute_where_the_longest_example_does_not_fit_otherwise(room, capsys):
    data = Data()
    tokens, _ = room(200, data, recomputed=100)
    assert tokens >= max(data.lengths)
    with pytest.raises(UserError, match="memory is too small for a forward pass of .* lower --max_input_tokens"):
        room(200, data)


def test_a_number_that_is_given_is_kept_and_tried(room):
    tokens, tried = room(10**9, Data(batch_tokens=2000))
    assert tokens == 2000 and len(tried) == 1 and tried[0] <= 2000
    with pytest.raises(UserError, match="--batch_tokens 100 is less than the longest example's"):
        room(10**9, Data(batch_tokens=100))


def test_a_cpu_is_not_measured():
    accelerator = SimpleNamespace(num_processes=1, device=torch.device("cpu"))
    assert memory.forward_tokens(Data(), "auto", accelerator, [], [], None, None, 0) == memory.CPU_TOKENS
