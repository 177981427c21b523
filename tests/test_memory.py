"""How many tokens a forward pass gets: what a GPU has memory for is stood in for by a number of tokens."""

from types import SimpleNamespace

import pytest
import torch

from data.common.errors import UserError
from data.training.batches import packed_passes, padded_passes
from data.training.training_data import TrainingData
from data.with_torch import memory, processes

UPDATE, UPDATES = 32, 4


class Data(TrainingData):
    """Examples of four schemas, in updates of 32, of which the second takes most tokens with its padding."""

    def __init__(self, batch_tokens: int = 0, padded: bool = False):
        self.options = dict(batch_tokens=batch_tokens)
        self.questions = UPDATE * UPDATES
        self.updates, self.per_update, self.padded, self.one_row = UPDATES, UPDATE, padded, False
        self.prompts = [280 + 7 * (i % 13) + 40 * (UPDATE <= i < 2 * UPDATE) for i in range(self.questions)]
        self.prompts[-1] += 600  # the longest stands in the last update
        self.answers = [20] * self.questions
        self.lengths = [sum(pair) for pair in zip(self.prompts, self.answers)]
        self.schemas = [(i % 4, 200) for i in range(self.questions)]
        self.train = list(range(self.questions))

    def passes(self, ranks: int, room: int, start: int = 0, stop: int = UPDATES) -> list:
        updates = [list(range(number * UPDATE, (number + 1) * UPDATE)) for number in range(start, min(stop, UPDATES))]
        if self.padded:
            return [padded_passes(update, self.prompts, self.answers, ranks, room) for update in updates]
        return [packed_passes(update, self.lengths, self.schemas, ranks, room) for update in updates]

    def flat(self, room: int) -> list[list[int]]:
        return [own for passes in self.passes(1, room) for (own,) in passes]


@pytest.fixture
def room(monkeypatch):
    """`room(limit, data)`: --batch_tokens, found out where passes of so many tokens fit, and the passes that were tried."""

    def go(limit: int, data: Data, recomputed: int = 0) -> tuple[int, list[list[int]]]:
        tried, layers = [], [SimpleNamespace() for _ in range(4)]

        def collate(rows: list[int]) -> dict:
            tried.append(rows)
            return {}

        def fits(learn, kept, gpus) -> bool:
            more = recomputed * sum(layer.gradient_checkpointing for layer in layers)
            return max(map(data.area, tried[-1 - data.padded :])) <= limit + more

        monkeypatch.setattr(memory, "fits", fits)
        accelerator = SimpleNamespace(num_processes=1, device=SimpleNamespace(type="cuda"), print=lambda text: None)
        return memory.forward_tokens(data, "auto", accelerator, layers, [], None, collate, 0), tried

    return go


def test_an_update_that_fits_as_a_whole_is_one_pass(room):
    """Also where another than the first has most padding: a second pass for it would read all weights again."""
    data = Data()
    tokens, tried = room(10**9, data)
    areas = list(map(data.area, data.flat(memory.MOST)))
    assert tokens == max(areas) == max(map(data.area, tried)) > areas[0]
    assert [len(passes) for passes in data.passes(1, tokens)] == [1] * UPDATES


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("limit", [1500, 2500, 4000, 10**9])
def test_no_pass_of_an_epoch_is_larger_than_one_that_was_tried(room, padded, limit):
    data = Data(padded=padded)
    tokens, tried = room(limit, data)
    used = data.flat(tokens)
    assert max(data.lengths) <= tokens <= min(limit, memory.MOST)
    assert max(map(data.area, used)) <= max(area for area in map(data.area, tried) if area <= limit)
    longest = [max(data.prompts[i] for i in own) for own in tried]
    assert not padded or max(longest) == max(data.prompts)


def test_passes_are_somewhat_smaller_than_the_largest_that_fit(room):
    tokens, tried = room(4000, data := Data())
    assert tokens < 4000 < max(map(data.area, tried)) and tokens < max(map(data.area, data.flat(memory.MOST)))


def test_layers_recompute_where_the_longest_example_does_not_fit_otherwise(room):
    data = Data()
    tokens, _ = room(700, data, recomputed=200)
    assert tokens >= max(data.lengths)
    with pytest.raises(UserError, match="memory is too small for a forward pass of .* lower --max_input_tokens"):
        room(700, data)


def test_a_number_that_is_given_is_kept_and_tried(room):
    tokens, tried = room(10**9, data := Data(batch_tokens=2000))
    assert tokens == 2000 and len(tried) == 1 and data.area(tried[0]) <= 2000


def test_a_model_that_is_spread_leaves_room_on_each_of_its_gpus(monkeypatch):
    held, total = [], 1000
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: SimpleNamespace(total_memory=total))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch, "empty", lambda size, dtype, device: held.append((device, size)))
    assert memory.fits(lambda: None, 100, ["cuda:0", "cuda:1"])
    spare = int(memory.SPARE * total)
    assert held == [("cuda:0", 50 + spare), ("cuda:1", 50 + spare)]

    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    assert not memory.fits(full, 100, ["cuda:0"])


def test_what_a_process_computes_on_and_holds_counts_all_gpus_of_a_model_that_is_spread(monkeypatch):
    assert processes.gpu_names() == processes.gpu_names(spread=True) == ["cpu"] and processes.peak_memory() > 2**20
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu: f"GPU {gpu}")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda gpu: 10 - gpu)
    assert processes.gpu_names() == ["GPU 1"] and processes.gpu_names(spread=True) == ["GPU 0", "GPU 1"]
    assert processes.peak_memory() == 10


def test_a_cpu_is_not_measured():
    accelerator = SimpleNamespace(num_processes=1, device=torch.device("cpu"))
    assert memory.forward_tokens(Data(), "auto", accelerator, [], [], None, None, 0) == memory.CPU_TOKENS


@pytest.mark.parametrize(
    ("how", "able"),
    [
        ({}, True),
        (dict(compiled=False), False),
        (dict(device="cpu"), False),
        (dict(device_map="auto"), False),
        (dict(dropout=0.1), False),
        (dict(kibibytes=99), False),  # an A6000
        (dict(width=8192), False),  # LLaMA-65B
        (dict(others=[True, False]), False),
    ],
)
def test_attention_is_in_blocks_where_all_processes_can(monkeypatch, how, able):
    how = dict(compiled=True, device="cuda", device_map="replica", dropout=0.0, kibibytes=163, width=6144, others=[]) | how
    gpu = SimpleNamespace(shared_memory_per_block_optin=how["kibibytes"] * 1024)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(memory, "gather_object", lambda own: own + how["others"])
    accelerator = SimpleNamespace(device=torch.device(how["device"]))
    config = SimpleNamespace(attention_dropout=how["dropout"], hidden_size=how["width"])
    assert memory.in_blocks(how["compiled"], how["device_map"], config, accelerator) == able
