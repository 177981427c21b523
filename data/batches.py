"""The order in which examples are seen: shuffled, grouped by length, the same on every machine for a seed and an epoch."""

import random
from collections.abc import Iterator, Sequence

WINDOW = 32  # updates whose examples are sorted together: under 10 % padding on Spider, and still shuffled


def epoch_updates(lengths: Sequence[int], examples_per_update: int, seed: int, epoch: int) -> list[list[int]]:
    """One epoch as lists of `examples_per_update` indices into `lengths` (tokens), each sorted from longest to shortest.

    Examples are shuffled, cut into windows, sorted by length within a window and cut into updates, whose order is then
    shuffled. The last update is filled up from the beginning of the shuffled order, so that every one has its full size
    and every example is seen.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    while len(order) % examples_per_update:
        order += order[: examples_per_update - len(order) % examples_per_update]
    updates = []
    window = WINDOW * examples_per_update
    for start in range(0, len(order), window):
        # equal lengths stay shuffled: the sort is stable
        ordered = sorted(order[start : start + window], key=lambda index: -lengths[index])
        updates += [ordered[i : i + examples_per_update] for i in range(0, len(ordered), examples_per_update)]
    rng.shuffle(updates)
    return updates


def micro_batches(
    lengths: Sequence[int], micro: int, grad_accum: int, ranks: int, rank: int, seed: int, start: int, stop: int
) -> Iterator[tuple[list[int], list[int]]]:
    """For each micro-batch of updates `start` to `stop` - 1 on one rank: its indices, and those of its whole update.

    An update's examples depend on micro x grad_accum x ranks alone, so two ranks with batches of 4 and one rank with a
    batch of 8 see the same updates. Ranks get neighbours in length, and wait little for each other.
    """
    size = micro * grad_accum * ranks
    updates_per_epoch = -(-len(lengths) // size)
    for update in range(start, stop):
        if update == start or update % updates_per_epoch == 0:
            updates = epoch_updates(lengths, size, seed, update // updates_per_epoch)
        whole = updates[update % updates_per_epoch]
        for accumulation in range(grad_accum):
            first = (accumulation * ranks + rank) * micro
            yield whole[first : first + micro], whole


def describe(prompts: Sequence[int], answers: Sequence[int], examples_per_update: int, micro: int, seed: int) -> str:
    """Numbers of tokens and the share of padding that the first epoch's batches of `micro` examples hold, in one line."""
    real = padded = 0
    for update in epoch_updates(prompts, examples_per_update, seed, 0):
        for start in range(0, len(update), micro):
            batch = update[start : start + micro]
            real += sum(prompts[i] + answers[i] for i in batch)
            padded += len(batch) * (max(prompts[i] for i in batch) + max(answers[i] for i in batch))
    return (
        f"prompts: mean {sum(prompts) / len(prompts):.0f} tokens, longest {max(prompts):,} | SQL: mean "
        f"{sum(answers) / len(answers):.0f}, longest {max(answers):,} | padding {1 - real / padded:.1%}"
    )
