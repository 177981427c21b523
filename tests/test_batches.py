"""The order of examples: all of them, in updates of one size, the same for a seed; and how an update becomes forward passes."""

import hashlib
import random
import sys
from collections import Counter

import pytest

from data.training.batches import (
    GROUP_SIZE,
    LONGEST,
    area,
    describe,
    epoch_updates,
    packed_passes,
    padded_passes,
    shared_tokens,
)


def random_lengths(count: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randint(5, 500) for _ in range(count)]


def by_themselves(count: int) -> list[tuple[int, int]]:
    """Schemas of examples that share nothing."""
    return [(number, 0) for number in range(count)]


LENGTHS, ALONE = random_lengths(1000), by_themselves(1000)
SIZES = [(count, size) for count in (1, 7, 8, 9, 100, 1000, 1033) for size in (1, 8, 36, 128, 3000)]


def epoch(count: int, size: int, seed: int = 0, number: int = 0) -> list[list[int]]:
    """An epoch of examples that share nothing."""
    return epoch_updates(random_lengths(count), by_themselves(count), size, seed, number)


# -------------------------------------------------------------------------------------------------------------- an epoch


@pytest.mark.parametrize(("count", "size"), SIZES)
def test_every_example_is_seen_in_updates_of_one_size(count, size):
    updates = epoch(count, size)
    assert {len(update) for update in updates} == {size}
    assert len(updates) == -(-count // size)
    assert {index for update in updates for index in update} == set(range(count))


@pytest.mark.parametrize(("count", "size"), SIZES)
def test_no_example_is_repeated_more_than_the_last_update_needs(count, size):
    seen = Counter(index for update in epoch(count, size) for index in update)
    assert sum(times - 1 for times in seen.values()) == -count % size
    assert max(seen.values()) - min(seen.values()) <= 1


def test_fewer_examples_than_one_update():
    (update,) = epoch_updates([30, 10, 20], by_themselves(3), 8, 0, 0)
    assert sorted(Counter(update).values()) == [2, 3, 3]


def test_the_order_follows_from_seed_and_epoch_alone():
    random.seed(1)
    first = epoch(1000, 8, 3, 5)
    random.seed(2)
    assert epoch_updates(list(LENGTHS), list(ALONE), 8, 3, 5) == first


def test_the_order_differs_over_seeds_and_epochs():
    orders = [str(epoch(1000, 8, seed, number)) for seed in range(5) for number in range(5)]
    assert len(set(orders)) == len(orders)


@pytest.mark.parametrize("kind", ["as they come", "all different"])
@pytest.mark.parametrize(("count", "size"), [(7000, 36), (7000, 128), (7000, 288), (1000, 8), (300, 16)])
def test_the_company_that_examples_keep_differs_over_epochs(count, size, kind):
    """That updates take about as much memory must not put the same examples into one update each epoch."""
    lengths = random_lengths(count) if kind == "as they come" else random.Random(0).sample(range(5, 5 + count), count)
    first, second = (epoch_updates(lengths, by_themselves(count), size, 0, number) for number in (0, 1))
    place = {index: number for number, update in enumerate(second) for index in update}
    meetings = [sum(n * n for n in Counter(place[index] for index in update).values()) / size**2 for update in first]
    assert sum(meetings) / len(meetings) < 0.6


def test_every_update_has_long_and_short_examples():
    middle = sorted(LENGTHS)[500]
    for update in epoch(1000, 36):
        assert 12 <= sum(LENGTHS[index] > middle for index in update) <= 24


def test_updates_do_not_come_in_the_order_of_their_length():
    sums = [sum(LENGTHS[i] for i in update) for update in epoch(1000, 8, number=1)]
    rises = sum(later > earlier for earlier, later in zip(sums, sums[1:])) / sum(a != b for a, b in zip(sums, sums[1:]))
    assert 0.3 < rises < 0.7


@pytest.mark.parametrize("size", [1, 8, 36])
def test_a_run_begins_with_what_needs_most_memory(size):
    """A batch that does not fit shows at once, not after hours, beside the optimiser's state of the first step, too."""
    # updates whose examples count for much differ, as one length is far from the others
    lengths = [length * (50 if index % 7 == 0 else 1) for index, length in enumerate(LENGTHS)]

    def tokens(seed: int, number: int) -> list[int]:
        return [sum(lengths[i] for i in update) for update in epoch_updates(lengths, ALONE, size, seed, number)]

    for seed in range(3):
        assert tokens(seed, 0)[:2] == sorted(tokens(seed, 0), reverse=True)[:2]
    assert any(tokens(seed, 1)[:2] != sorted(tokens(seed, 1), reverse=True)[:2] for seed in range(3))


def of_databases(count: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Tokens of as many questions, and their schemas: 50 a database, as in Spider."""
    rng = random.Random(0)
    tokens = [rng.randint(60, 1700) for _ in range(-(-count // 50))]
    schemas = [(number, tokens[number]) for number in rng.choices(range(len(tokens)), k=count)]
    return [own + rng.randint(30, 90) for _, own in schemas], schemas


@pytest.mark.parametrize(
    ("count", "size", "share", "digest"),
    [
        (7000, 128, True, "db9de9e8a81246fa"),
        (7000, 128, False, "e8666f7b8cc9f1b4"),
        (7000, 36, True, "4303243095051e8a"),
        (1033, 3, True, "c2e8b8068dfe1223"),
        (1033, 3, False, "36470e6983727387"),
    ],
)
def test_the_order_is_that_of_earlier_versions(count, size, share, digest):
    """Else a run of theirs that is resumed would see some examples twice and others never."""
    lengths, schemas = of_databases(count)
    orders = [epoch_updates(lengths, schemas if share else by_themselves(count), size, 1, number) for number in (0, 1)]
    assert hashlib.sha256(repr(orders).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("share", [True, False])
def test_the_work_grows_as_the_examples_do(share):
    def calls(count: int) -> int:
        lengths, schemas = of_databases(count)
        made, before = 0, sys.getprofile()

        def called(frame, event, argument) -> None:
            nonlocal made
            made += event in ("call", "c_call")

        sys.setprofile(called)
        try:
            epoch_updates(lengths, schemas if share else by_themselves(count), 8, 0, 0)
        finally:
            sys.setprofile(before)
        return made

    assert calls(8000) < 5 * calls(2000)


# ---------------------------------------------------------------------------------------------------------------- passes


def drawn(rng: random.Random, count: int, share: bool) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Tokens of random prompts and answers, and their schemas, which are some of nine or shared by none."""
    tokens = [rng.choice((10, 100, 400, 1500)) for _ in range(9)]
    schemas = [(own, tokens[own]) for own in rng.choices(range(9), k=count)] if share else by_themselves(count)
    return [rng.randint(5, 150) + tokens for _, tokens in schemas], [rng.randint(1, 60) for _ in schemas], schemas


def check_passes(passes: list[list[list[int]]], update: list[int], ranks: int) -> None:
    """Every example stands in one place, and every rank has some in every pass."""
    assert all(len(each) == ranks and all(each) for each in passes)
    assert sorted(i for each in passes for batch in each for i in batch) == sorted(update)


@pytest.mark.parametrize("one_row", [False, True], ids=["rows", "one row"])
@pytest.mark.parametrize("share", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_packed_passes_keep_to_their_limits_and_leave_no_rank_without_examples(ranks, share, one_row):
    for seed in range(60):
        rng = random.Random(seed)
        prompts, answers, schemas = drawn(rng, 200, share)
        lengths = [sum(pair) for pair in zip(prompts, answers)]
        update = rng.sample(range(200), 24 * rng.randint(1, 5))
        # a multiple of all ranks: each can have as few in a pass as the limits ask for
        room, most = rng.choice((max(lengths), 2 * max(lengths), 5000, 16_384)), rng.choice((0, 1, 2, 5, 16))
        passes = packed_passes(update, lengths, schemas, ranks, room, most, one_row)
        check_passes(passes, update, ranks)
        batches = [batch for each in passes for batch in each]
        tokens = [sum(shared_tokens(batch, lengths, schemas)) for batch in batches]
        assert max(area(shared_tokens(batch, lengths, schemas), one_row) for batch in batches) <= room
        assert not most or max(map(len, batches)) <= most
        # and do not make many small passes of what fits in few
        if not most:
            assert len(passes) <= 1 + 2.5 * sum(tokens) / (ranks * room)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_padded_passes_keep_to_their_limits_and_leave_no_rank_without_examples(ranks):
    for seed in range(60):
        rng = random.Random(seed)
        prompts, answers, _ = drawn(rng, 200, True)
        update = rng.sample(range(200), 24 * rng.randint(1, 5))
        room, most = rng.choice((max(prompts) + max(answers), 5000, 16_384)), rng.choice((0, 1, 2, 5, 16))
        passes = padded_passes(update, prompts, answers, ranks, room, most)
        check_passes(passes, update, ranks)
        batches = [batch for each in passes for batch in each]
        padded = [len(batch) * (max(prompts[i] for i in batch) + max(answers[i] for i in batch)) for batch in batches]
        assert max(padded) <= room
        assert not most or max(map(len, batches)) <= most


@pytest.mark.parametrize("most", [0, 1, 3])
@pytest.mark.parametrize(("count", "ranks"), [(3, 2), (7, 3), (128, 3), (10, 8), (8, 8), (5, 1)])
def test_no_rank_is_without_examples_where_they_do_not_divide_evenly(count, ranks, most):
    update = list(range(count))
    for room in (110, 1000, 16_384):  # of examples of 110 tokens
        check_passes(packed_passes(update, [110] * count, by_themselves(count), ranks, room, most), update, ranks)
        check_passes(padded_passes(update, [100] * count, [10] * count, ranks, room, most), update, ranks)


def test_an_example_that_is_longer_than_a_pass_stands_by_itself():
    lengths = [30, 300, 20, 30, 250, 10]
    for prompts, answers, found in (
        (lengths, [0] * 6, packed_passes(list(range(6)), lengths, by_themselves(6), 1, 100)),
        (lengths, [5] * 6, padded_passes(list(range(6)), lengths, [5] * 6, 1, 100)),
    ):
        check_passes(found, list(range(6)), 1)
        batches = [batch for (batch,) in found]
        assert [1] in batches and [4] in batches
        assert all(sum(prompts[i] + answers[i] for i in batch) <= 100 for batch in batches if not {1, 4} & set(batch))
    check_passes(packed_passes([0, 1], [300, 300], by_themselves(2), 1, 100), [0, 1], 1)
    check_passes(padded_passes([0, 1], [300, 300], [5, 5], 1, 100), [0, 1], 1)
    # and so do questions whose schema leaves no room for another
    schemas = [("a", LONGEST), ("a", LONGEST), *by_themselves(2)]
    found = packed_passes([0, 1, 2, 3], [LONGEST + 90, LONGEST + 95, 40, 50], schemas, 1, 100)
    assert [[0]] in found and [[1]] in found


def test_passes_have_about_as_many_tokens_on_every_rank():
    """Ranks wait for the one that has most."""
    prompts, answers, _ = drawn(random.Random(0), 128, False)
    lengths = [sum(pair) for pair in zip(prompts, answers)]
    for ranks in (2, 3, 8):
        for each in packed_passes(list(range(128)), lengths, by_themselves(128), ranks, 1000):
            tokens = [sum(lengths[i] for i in batch) for batch in each]
            assert max(tokens) <= 1.25 * min(tokens)


@pytest.mark.parametrize("room", [4096, 8192, 32_768])
def test_padded_passes_have_about_as_many_tokens_on_every_rank(room):
    prompts, answers = spider_like(128)
    for ranks in (1, 2, 4, 8):
        passes = padded_passes(list(range(128)), prompts, answers, ranks, room)
        tokens = [
            len(batch) * (max(prompts[i] for i in batch) + max(answers[i] for i in batch)) for each in passes for batch in each
        ]
        assert max(tokens) <= min(room, 1.25 * sum(tokens) / len(tokens))


@pytest.mark.parametrize("room", [2400, 32_768])
def test_ranks_have_about_as_much_to_do_over_the_passes_of_an_update(room):
    """Between the passes of an update they do not wait for each other."""
    rng, most = random.Random(0), []
    for _ in range(20):
        schemas = [(number // GROUP_SIZE, tokens) for number, tokens in enumerate(rng.choices(range(100, 1600), k=128))]
        schemas = [schemas[number - number % GROUP_SIZE] for number in range(128)]
        lengths = [tokens + rng.randint(30, 120) for _, tokens in schemas]
        passes = packed_passes(list(range(128)), lengths, schemas, 4, room)
        check_passes(passes, list(range(128)), 4)
        work = [sum(area(shared_tokens(each[rank], lengths, schemas)) for each in passes) for rank in range(4)]
        most.append(max(work) * 4 / sum(work))
    assert sum(most) / len(most) < 1.05


@pytest.mark.parametrize(("groups", "ranks"), [(3, 2), (9, 8), (17, 8)])
def test_a_group_is_divided_where_ranks_would_wait_for_it(groups, ranks):
    count = groups * GROUP_SIZE
    schemas, lengths = [(index // GROUP_SIZE, 200) for index in range(count)], [275] * count
    passes = packed_passes(list(range(count)), lengths, schemas, ranks, 32_768)
    check_passes(passes, list(range(count)), ranks)
    (work,) = ([sum(shared_tokens(batch, lengths, schemas)) for batch in each] for each in passes)
    assert max(work) * ranks / sum(work) < 1.25


def test_padded_passes_hold_neighbours_in_length_and_begin_with_the_longest():
    prompts, answers = spider_like(128)
    for ranks in (1, 2, 8):
        batches = [batch for each in padded_passes(list(range(128)), prompts, answers, ranks, 4000) for batch in each]
        longest = [[prompts[i] for i in batch] for batch in batches]
        assert all(min(earlier) >= max(later) for earlier, later in zip(longest, longest[1:]))
        assert max(prompts) == longest[0][0]


def test_questions_of_one_schema_stay_together_where_there_is_room():
    schemas = [(index // GROUP_SIZE, 500) for index in range(8 * GROUP_SIZE)]
    lengths = [520 + index % 5 for index in range(8 * GROUP_SIZE)]
    passes = packed_passes(list(range(8 * GROUP_SIZE)), lengths, schemas, 2, 2000)
    assert all(len({schemas[i] for i in batch}) * GROUP_SIZE == len(batch) for each in passes for batch in each)


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


@pytest.mark.parametrize(("size", "ranks", "room", "most"), [(128, 1, 8192, 0), (128, 1, 16_384, 4), (128, 8, 4096, 0)])
def test_little_is_padding(size, ranks, room, most):
    prompts, answers = spider_like(7000)
    lengths, whole, padded = [sum(pair) for pair in zip(prompts, answers)], 0, 0
    for update in epoch_updates(lengths, by_themselves(7000), size, 0, 0):
        for each in padded_passes(update, prompts, answers, ranks, room, most):
            padded += sum(len(batch) * (max(prompts[i] for i in batch) + max(answers[i] for i in batch)) for batch in each)
            whole += sum(lengths[i] for batch in each for i in batch)
    assert whole > 0.8 * padded


def test_what_is_described():
    line = describe([1000, 2000, 3000], [10, 20, 30], by_themselves(3), 3)
    assert line == "prompts: mean 2000 tokens, longest 3,000 | SQL: mean 20, longest 30"
