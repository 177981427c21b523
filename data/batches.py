"""The order in which examples are seen: shuffled, grouped by length, the same on every machine for a seed and an epoch."""

import random
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence

TOGETHER = 8  # questions of one schema that stand side by side where they share it: 16 schemas in an update of 128
WINDOW = 128  # updates whose examples are sorted together by their prompts
GROUP = 4  # of these, neighbours that are sorted together by their answers: under 10 % padding on Spider


def epoch_updates(
    prompts: Sequence[int],
    examples_per_update: int,
    seed: int,
    epoch: int,
    answers: Sequence[int] | None = None,
    schemas: Sequence[Hashable] | None = None,
) -> list[list[int]]:
    """One epoch as lists of `examples_per_update` indices, longest prompt first; lengths are in tokens.

    Examples are shuffled, cut into windows, and sorted by prompt within a window; where answers are padded on their own
    (`answers`), groups of a few updates are then sorted by answer. The updates so cut are shuffled. The last is filled up
    from the beginning of the shuffled order, so that every one has its full size and every example is seen.

    Where examples share the schema that `schemas` names for each, up to TOGETHER of one schema stand side by side instead,
    in updates that mix schemas; the schemas of an update go from the longest prompt to the shortest.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(prompts)))
    rng.shuffle(order)
    if schemas is not None:
        order = _side_by_side(order, schemas, rng)
    while len(order) % examples_per_update:
        order += order[: examples_per_update - len(order) % examples_per_update]
    if schemas is not None:
        updates = [order[i : i + examples_per_update] for i in range(0, len(order), examples_per_update)]
        return [_by_schema(update, schemas, prompts) for update in updates]
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


def _side_by_side(order: list[int], schemas: Sequence[Hashable], rng: random.Random) -> list[int]:
    """`order` with runs of up to TOGETHER examples of one schema, in random order."""
    own: dict[Hashable, list[int]] = defaultdict(list)
    for index in order:
        own[schemas[index]].append(index)
    runs = [indices[i : i + TOGETHER] for indices in own.values() for i in range(0, len(indices), TOGETHER)]
    rng.shuffle(runs)
    return [index for run in runs for index in run]


def _by_schema(update: list[int], schemas: Sequence[Hashable], prompts: Sequence[int]) -> list[int]:
    """An update's examples, those of one schema together."""
    longest: dict[Hashable, int] = defaultdict(int)
    for index in update:
        longest[schemas[index]] = max(longest[schemas[index]], prompts[index])
    place = {schema: number for number, schema in enumerate(longest)}  # schemas of one length stay apart
    return sorted(update, key=lambda index: (-longest[schemas[index]], place[schemas[index]]))


def grouped(examples: Sequence[int], schemas: Sequence[Hashable]) -> list[list[int]]:
    """Examples by schema, in the order in which the schemas come first."""
    own: dict[Hashable, list[int]] = {}
    for index in examples:
        own.setdefault(schemas[index], []).append(index)
    return list(own.values())


def packed(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of `lengths` in packs, each no longer than the longest of them: the first that has room, long ones first."""
    room, packs = [], []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = next((i for i, free in enumerate(room) if free >= lengths[index]), None)
        if place is None:
            place = len(packs)
            packs.append([])
            room.append(max(lengths))
        packs[place].append(index)
        room[place] -= lengths[index]
    return packs


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
    schemas: Sequence[Hashable] | None = None,
) -> Iterator[tuple[list[int], list[int]]]:
    """For each micro-batch of updates `start` to `stop` - 1 on one rank: its indices, and those of its whole update.

    An update's examples depend on micro x grad_accum x ranks alone, so two ranks with batches of 4 and one rank with a
    batch of 8 see the same updates. Ranks get neighbours in length, and wait little for each other.
    """
    size = micro * grad_accum * ranks
    updates_per_epoch = -(-len(prompts) // size)
    for update in range(start, stop):
        if update == start or update % updates_per_epoch == 0:
            updates = epoch_updates(prompts, size, seed, update // updates_per_epoch, answers, schemas)
        whole = updates[update % updates_per_epoch]
        for accumulation in range(grad_accum):
            first = (accumulation * ranks + rank) * micro
            yield whole[first : first + micro], whole


def shared_tokens(
    update: Sequence[int], micro: int, lengths: Sequence[int], shared: Sequence[int], schemas: Sequence[Hashable]
) -> list[list[int]]:
    """Tokens of each schema's group in each micro-batch of an update: the schema once, and all else of each example.

    `lengths` are the examples' tokens, `shared` how many of them are the schema's.
    """
    found = []
    for start in range(0, len(update), micro):
        groups = grouped(update[start : start + micro], schemas)
        found.append([shared[group[0]] + sum(lengths[i] - shared[i] for i in group) for group in groups])
    return found


def describe(
    prompts: Sequence[int],
    answers: Sequence[int],
    examples_per_update: int,
    micro: int,
    seed: int,
    joined: bool = False,
    shared: Sequence[int] = (),
    schemas: Sequence[Hashable] | None = None,
) -> tuple[str, float]:
    """Numbers of tokens, in words, and the share of padding that the first epoch's batches of `micro` examples hold.

    `joined`: prompt and answer are one sequence and are padded as one. `schemas`: examples share them, `shared` tokens each.
    """
    real = padded = 0
    whole = [sum(pair) for pair in zip(prompts, answers)]
    orders = (whole, None) if joined else (prompts, answers)
    for update in epoch_updates(orders[0], examples_per_update, seed, 0, orders[1], schemas):
        for start in range(0, len(update), micro):
            batch = update[start : start + micro]
            if schemas is not None:
                (lengths,) = shared_tokens(batch, micro, whole, shared, schemas)
                real += sum(lengths)
                padded += len(packed(lengths)) * max(lengths)
                continue
            real += sum(whole[i] for i in batch)
            apart = max(prompts[i] for i in batch) + max(answers[i] for i in batch)
            padded += len(batch) * (max(whole[i] for i in batch) if joined else apart)
    padding = 1 - real / padded
    line = (
        f"prompts: mean {sum(prompts) / len(prompts):.0f} tokens, longest {max(prompts):,} | SQL: mean "
        f"{sum(answers) / len(answers):.0f}, longest {max(answers):,} | padding {padding:.1%}"
        + (f" | an epoch: {real:,} tokens, {sum(whole):,} if schemas were not shared" if schemas is not None else "")
    )
    return line, padding
