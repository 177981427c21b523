"""The order of examples: all of them, in updates of one size, the same for a seed whatever the machine."""

import random
from collections import Counter

import pytest

from data.batches import describe, epoch_updates, micro_batches


def random_lengths(count: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randint(5, 500) for _ in range(count)]


LENGTHS = random_lengths(1000)
SIZES = [(count, size) for count in (1, 7, 8, 9, 100, 1000, 1033) for size in (1, 8, 36, 128, 3000)]


def updates_of(micro: int, grad_accum: int, ranks: int, start: int, stop: int, seed: int = 0) -> list[list[int]]:
    """The examples of each update, as all ranks together meet them in their micro-batches."""
    met: list[list[int]] = [[] for _ in range(start, stop)]
    for rank in range(ranks):
        batches = [batch for batch, _ in micro_batches(LENGTHS, micro, grad_accum, ranks, rank, seed, start, stop)]
        assert len(batches) == (stop - start) * grad_accum and {len(batch) for batch in batches} == {micro}
        for position, batch in enumerate(batches):
            met[position // grad_accum] += batch
    return met


# -------------------------------------------------------------------------------------------------------------- an epoch


@pytest.mark.parametrize(("count", "size"), SIZES)
def test_every_example_is_seen_in_updates_of_one_size(count, size):
    updates = epoch_updates(random_lengths(count), size, 0, 0)
    assert {len(update) for update in updates} == {size}
    assert len(updates) == -(-count // size)
    assert {index for update in updates for index in update} == set(range(count))


@pytest.mark.parametrize(("count", "size"), SIZES)
def test_no_example_is_repeated_more_than_the_last_update_needs(count, size):
    seen = Counter(index for update in epoch_updates(random_lengths(count), size, 0, 0) for index in update)
    assert sum(times - 1 for times in seen.values()) == -count % size
    assert max(seen.values()) - min(seen.values()) <= 1


def test_answers_change_the_company_and_nothing_else():
    answers = random_lengths(1000, seed=1)
    alone, both = epoch_updates(LENGTHS, 36, 0, 0), epoch_updates(LENGTHS, 36, 0, 0, answers)
    assert alone != both and Counter(sum(alone, [])) == Counter(sum(both, []))
    assert all([LENGTHS[i] for i in update] == sorted((LENGTHS[i] for i in update), reverse=True) for update in both)


def test_fewer_examples_than_one_update():
    (update,) = epoch_updates([30, 10, 20], 8, 0, 0)
    assert sorted(Counter(update).values()) == [2, 3, 3]


def test_the_order_follows_from_seed_and_epoch_alone():
    random.seed(1)
    first = epoch_updates(LENGTHS, 8, 3, 5)
    random.seed(2)
    assert epoch_updates(list(LENGTHS), 8, 3, 5) == first


def test_the_order_differs_over_seeds_and_epochs():
    orders = [str(epoch_updates(LENGTHS, 8, seed, epoch)) for seed in range(5) for epoch in range(5)]
    assert len(set(orders)) == len(orders)


@pytest.mark.parametrize(("count", "size"), [(7000, 36), (7000, 128), (7000, 288), (1000, 8), (300, 16)])
def test_the_company_that_examples_keep_differs_over_epochs(count, size):
    """Grouping by length must not put the same examples into one update each epoch."""
    lengths = random_lengths(count)
    first, second = (epoch_updates(lengths, size, 0, epoch) for epoch in (0, 1))
    place = {index: number for number, update in enumerate(second) for index in update}
    meetings = [sum(n * n for n in Counter(place[index] for index in update).values()) / size**2 for update in first]
    assert sum(meetings) / len(meetings) < 0.6


def test_an_update_goes_from_long_to_short():
    for update in epoch_updates(LENGTHS, 36, 0, 0):
        lengths = [LENGTHS[index] for index in update]
        assert lengths == sorted(lengths, reverse=True)


def test_updates_do_not_come_in_the_order_of_their_length():
    means = [sum(LENGTHS[i] for i in update) / 8 for update in epoch_updates(LENGTHS, 8, 0, 0)]
    rises = sum(later > earlier for earlier, later in zip(means, means[1:]))
    assert 0.3 < rises / len(means) < 0.7


@pytest.mark.parametrize("size", [1, 8, 36])
@pytest.mark.parametrize("apart", [False, True], ids=["answers behind prompts", "answers apart"])
def test_a_run_begins_with_what_needs_most_memory(size, apart):
    """A batch that does not fit shows at once, not after hours, beside the optimiser's state of the first step, too."""
    answers = random_lengths(1000, seed=1)

    def padded(update: list[int]) -> int:
        return max(LENGTHS[i] for i in update) + apart * max(answers[i] for i in update)

    for seed in range(3):
        tokens = [padded(update) for update in epoch_updates(LENGTHS, size, seed, 0, answers if apart else None)]
        assert tokens[:2] == sorted(tokens, reverse=True)[:2]
        later = [padded(update) for update in epoch_updates(LENGTHS, size, seed, 1, answers if apart else None)]
        assert later[:2] != sorted(later, reverse=True)[:2]


# ------------------------------------------------------------------------------------------------------ ranks and resume


@pytest.mark.parametrize(("micro", "grad_accum", "ranks"), [(4, 1, 2), (4, 2, 1), (2, 2, 2), (1, 8, 1), (1, 1, 8), (2, 1, 4)])
def test_an_update_is_the_same_however_it_is_divided(micro, grad_accum, ranks):
    stop = 130  # beyond the first epoch's 125 updates
    whole = updates_of(8, 1, 1, 0, stop)
    assert [sorted(update) for update in updates_of(micro, grad_accum, ranks, 0, stop)] == [sorted(u) for u in whole]


def test_each_micro_batch_comes_with_its_whole_update():
    for batch, whole in micro_batches(LENGTHS, 2, 2, 2, 1, 0, 0, 10):
        assert [len(part) for part in whole] == [2] * 4 and batch in whole


def test_ranks_get_neighbours_in_length_at_the_same_time():
    ranks = [list(micro_batches(LENGTHS, 4, 2, 2, rank, 0, 0, 62)) for rank in (0, 1)]
    for position, ((one, whole), (two, _)) in enumerate(zip(*ranks)):
        assert [one, two] == (whole[2:] if position % 2 else whole[:2])


@pytest.mark.parametrize("start", [0, 1, 60, 124, 125, 126, 250, 299])
def test_resuming_gives_the_rest(start):
    straight = list(micro_batches(LENGTHS, 4, 2, 1, 0, 7, 0, 300))
    assert list(micro_batches(LENGTHS, 4, 2, 1, 0, 7, start, 300)) == straight[start * 2 :]


def test_nothing_is_left_when_all_updates_are_done():
    assert list(micro_batches(LENGTHS, 4, 1, 1, 0, 0, 300, 300)) == []


def test_each_epoch_is_complete():
    seen = Counter(index for batch, _ in micro_batches(LENGTHS, 8, 1, 1, 0, 0, 0, 3 * 125) for index in batch)
    assert set(seen.values()) == {3} and len(seen) == 1000


def test_an_epoch_smaller_than_one_update_goes_on():
    batches = [batch for batch, _ in micro_batches([3, 1, 2], 4, 1, 1, 0, 0, 0, 5)]
    assert len(batches) == 5 and all(set(batch) == {0, 1, 2} and len(batch) == 4 for batch in batches)


# --------------------------------------------------------------------------------------------------------------- padding


# deciles of Spider's training set in T5's tokens, prompts cut at 1,024
PROMPTS = (70, 139, 176, 200, 232, 275, 382, 514, 650, 930, 1024)
ANSWERS = (8, 16, 20, 24, 29, 34, 45, 56, 66, 80, 120)


def spider_like(count: int) -> tuple[list[int], list[int]]:
    """Numbers of tokens of prompts and of SQL."""
    rng = random.Random(0)

    def draw(deciles: tuple[int, ...]) -> int:
        return rng.randint(*rng.choice(list(zip(deciles, deciles[1:]))))

    return [draw(PROMPTS) for _ in range(count)], [draw(ANSWERS) for _ in range(count)]


@pytest.mark.parametrize(("micro", "examples_per_update"), [(4, 128), (16, 16), (36, 36), (36, 288)])
def test_less_than_a_tenth_is_padding(micro, examples_per_update):
    prompts, answers = spider_like(7000)
    assert describe(prompts, answers, examples_per_update, micro, 0)[1] < 0.1


def test_what_is_described():
    line, padding = describe([1000, 2000, 3000], [10, 20, 30], 3, 3, 0)
    # padded: 3 x (3,000 + 30); real: 6,060
    assert line == "prompts: mean 2000 tokens, longest 3,000 | SQL: mean 20, longest 30 | padding 33.3%"
    assert padding == pytest.approx(1 - 6060 / 9090) and describe([1000, 2000, 3000], [10, 20, 30], 3, 1, 0)[1] == 0
