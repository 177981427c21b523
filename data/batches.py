"""The order in which examples are seen: shuffled, grouped by length, the same on every machine for a seed and an epoch."""

import random
from collections.abc import Iterator, Sequence

WINDOW = 128  # updates whose examples are sorted together by their prompts
GROUP = 4  # of these, neighbours that are sorted together by their answers: under 10 % padding on Spider


def epoch_updates(
    prompts: Sequence[int], examples_per_update: int, seed: int, epoch: int, answers: Sequence[int] | None = None
) -> list[list[int]]:
    """One epoch as lists of `examples_per_update` indices, longest prompt first; lengths are in tokens.

    Examples are shuffled, cut into windows, and sorted by prompt within a window; where answers are padded on their own
    (`answers`), groups of a few updates are then sorted by answer. The updates so cut are shuffled. The last is filled up
    from the beginning of the shuffled order, so that every one has its full size and every example is seen.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(prompts)))
    rng.shuffle(order)
    while len(order) % examples_per_update:
        order += order[: examples_per_update - len(order) % examples_per_update]
    # a window is never a whole epoch, else the same examples would meet in each
    window = min(WINDOW, max(1, 2 * len(order) // (3 * examples_per_update)))
    # equal lengths stay shuffled: the sort is stable
    order = _sorted_within(order, window * examples_per_update, prompts)
    if answers is not None:
        order = _sorted_within(order, GROUP * examples_per_update, answers)
    order = _sorted_within(order, examples_per_update, prompts)
    updates = [order[i : i + examples_per_update] for i in range(0, len(order), examples_per_update)]
    rng.shuffle(updates)
    return updates


def _sorted_within(order: list[int], span: int, lengths: Sequence[int]) -> list[int]:
    """`order` with each run of `span` indices sorted by length, longest first."""
    runs = (order[start : start + span] for start in range(0, len(order), span))
    return [index for run in runs for index in sorted(run, key=lambda index: -lengths[index])]


def micro_batches(
    prompts: Sequence[int],
    micro: int,
    grad_accum: int,
    ranks: int,
    rank: int,
    seed: int,
    start: int,
    stop: int,
    answers: Sequence[int] | None = None,
) -> Iterator[tuple[list[int], list[int]]]:
    """For each micro-batch of updates `start` to `stop` - 1 on one rank: its indices, and those of its whole update.

    An update's examples depend on micro x grad_accum x ranks alone, so two ranks with batches of 4 and one rank with a
    batch of 8 see the same updates. Ranks get neighbours in length, and wait little for each other.
    """
    size = micro * grad_accum * ranks
    updates_per_epoch = -(-len(prompts) // size)
    for update in range(start, stop):
        if update == start or update % updates_per_epoch == 0:
            updates = epoch_updates(prompts, size, seed, update // updates_per_epoch, answers)
        whole = updates[update % updates_per_epoch]
        for accumulation in range(grad_accum):
            first = (accumulation * ranks + rank) * micro
            yield whole[first : first + micro], whole


def describe(
    prompts: Sequence[int], answers: Sequence[int], examples_per_update: int, micro: int, seed: int, joined: bool = False
) -> str:
    """Numbers of tokens and the share of padding that the first epoch's batches of `micro` examples hold, in one line.

    `joined`: prompt and answer are one sequence and are padded as one.
    """
    real = padded = 0
    whole = [sum(pair) for pair in zip(prompts, answers)]
    for update in epoch_updates(whole if joined else prompts, examples_per_update, seed, 0, None if joined else answers):
        for start in range(0, len(update), micro):
            batch = update[start : start + micro]
            real += sum(whole[i] for i in batch)
            apart = max(prompts[i] for i in batch) + max(answers[i] for i in batch)
            padded += len(batch) * (max(whole[i] for i in batch) if joined else apart)
    return (
        f"prompts: mean {sum(prompts) / len(prompts):.0f} tokens, longest {max(prompts):,} | SQL: mean "
        f"{sum(answers) / len(answers):.0f}, longest {max(answers):,} | padding {1 - real / padded:.1%}"
    )
