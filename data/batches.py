"""The order in which examples are seen: shuffled, grouped by length, the same on every machine for a seed and an epoch."""

import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

TOGETHER = 8  # questions of one schema that stand side by side where they share it: 16 schemas in an update of 128
LONGEST = 2304  # tokens of them with their schema, or of one with a longer schema: what a forward pass has to have memory for
ATTENTION = 12_000  # tokens of a row at which its dense attention costs as much as all else, by an estimate for LLaMA-65B
SPAN = 100_000  # between the numbers of two schemas in a pack: more than the questions of a batch
WINDOW = 128  # updates whose examples are sorted together by their prompts
GROUP = 4  # of these, neighbours that are sorted together by their answers: under 10 % padding on Spider


def epoch_updates(
    prompts: Sequence[int],
    examples_per_update: int,
    seed: int,
    epoch: int,
    answers: Sequence[int] | None = None,
    schemas: Sequence[tuple[Hashable, int]] | None = None,
) -> list[list[int]]:
    """One epoch as lists of `examples_per_update` indices, longest prompt first; lengths are in tokens.

    Examples are shuffled, cut into windows, and sorted by prompt within a window; where answers are padded on their own
    (`answers`), groups of a few updates are then sorted by answer. The updates so cut are shuffled. The last is filled up
    from the beginning of the shuffled order, so that every one has its full size and every example is seen.

    Where examples share the schema that `schemas` holds for each (any name, and its tokens), up to TOGETHER of one schema stand
    side by side instead, in updates of many schemas, long and short ones in each, so that all of 64 and more need about as much
    memory. In either case the two updates that need most lead the first epoch.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(prompts)))
    rng.shuffle(order)
    while len(order) % examples_per_update:
        order += order[: examples_per_update - len(order) % examples_per_update]
    if schemas is not None:
        updates = _side_by_side(order, prompts, schemas, examples_per_update)
        rng.shuffle(updates)
        return _heaviest_first(updates, lambda update: sum(shared_tokens(update, prompts, schemas)), epoch)
    # a window is never a whole epoch, else the same examples would meet in each
    window = min(WINDOW, max(1, 2 * len(order) // (3 * examples_per_update)))
    # equal lengths stay shuffled: the sort is stable
    order = _sorted_within(order, window * examples_per_update, prompts)
    if answers is not None:
        order = _sorted_within(order, GROUP * examples_per_update, answers)
    order = _sorted_within(order, examples_per_update, prompts)
    updates = [order[i : i + examples_per_update] for i in range(0, len(order), examples_per_update)]
    rng.shuffle(updates)

    def padded(update: list[int]) -> list[int]:
        longest = max(answers[index] for index in update) if answers is not None else 0
        return [longest + prompts[index] for index in update]

    return _heaviest_first(updates, padded, epoch)


def _heaviest_first(updates: list[list[int]], weight: Callable[[list[int]], Any], epoch: int) -> list[list[int]]:
    """`updates`; in the first epoch the two with most weight lead: what does not fit a GPU fails at once, not after hours.

    Two, as an optimiser takes memory for its state at the first step. Batches of an update differ, and later ones can be
    somewhat larger.
    """
    if epoch:
        return updates
    heaviest = sorted(range(len(updates)), key=lambda number: weight(updates[number]), reverse=True)[:2]
    others = [number for number in range(len(updates)) if number not in heaviest]
    return [updates[number] for number in heaviest + others]


def _side_by_side(
    order: list[int], lengths: Sequence[int], schemas: Sequence[tuple[Hashable, int]], size: int
) -> list[list[int]]:
    """`order` as updates of `size` examples: runs of one schema, the longest first, each to the update with fewest tokens.

    A run that no update has room for is divided.
    """

    def tokens(run: list[int]) -> int:
        return sum(shared_tokens(run, lengths, schemas))

    updates: list[list[int]] = [[] for _ in range(len(order) // size)]
    room, sums = [size] * len(updates), [0] * len(updates)
    for run in sorted(_runs(order, lengths, schemas, TOGETHER), key=tokens, reverse=True):
        while run:
            least = min(len(run), max(room))
            place = min((number for number, places in enumerate(room) if places >= least), key=sums.__getitem__)
            part, run = run[: room[place]], run[room[place] :]
            updates[place] += part
            room[place] -= len(part)
            sums[place] += tokens(part)
    return updates


def grouped(examples: Sequence[int], schemas: Sequence[Hashable]) -> list[list[int]]:
    """Examples by schema, in the order in which the schemas come first."""
    own: dict[Hashable, list[int]] = {}
    for index in examples:
        own.setdefault(schemas[index], []).append(index)
    return list(own.values())


def _runs(
    examples: Sequence[int], lengths: Sequence[int], schemas: Sequence[tuple[Hashable, int]], most: int
) -> list[list[int]]:
    """Examples by schema, in runs of up to `most` and of LONGEST tokens, or of one example."""
    runs: list[list[int]] = []
    for group in grouped(examples, schemas):
        schema = schemas[group[0]][1]
        tokens = LONGEST + 1
        for index in group:
            tokens += lengths[index] - schema
            if tokens > LONGEST or len(runs[-1]) == most:
                runs.append([])
                tokens = lengths[index]
            runs[-1].append(index)
    return runs


def balanced(lengths: Sequence[int], bins: int) -> list[list[int]]:
    """Indices of `lengths` in so many lists of about the same sum: the longest first, each to the list with the least."""
    own: list[list[int]] = [[] for _ in range(bins)]
    sums = [0] * bins
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = sums.index(min(sums))
        own[place].append(index)
        sums[place] += lengths[index]
    return own


def packed(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of `lengths` in rows of about the same sum, in as many as cost least: few waste attention, many padding."""

    def cost(rows: list[list[int]]) -> float:
        longest = max(sum(lengths[index] for index in row) for row in rows)
        return len(rows) * longest * (1 + longest / ATTENTION)

    return min((balanced(lengths, count) for count in range(1, len(lengths) + 1)), key=cost)


def shared_packs(rows: Sequence[dict]) -> tuple[dict[str, list[list[int]]], list[list[tuple[int, int]]]]:
    """Tokenised examples -> a list a pack of each of input_ids, labels, position_ids and segments, and where examples end.

    An example has `input_ids`, of which the first `shared` are its schema, and `labels`. A pack is a schema, the questions that
    share it, each followed by its answer, the next schema and so on: a row of `packed`. Every question stands at the positions
    that follow its schema; labels are -100 but for answers. Segments number what may attend to each other: each schema a
    multiple of SPAN, its questions the numbers behind it. The second value holds, for each pack, the examples in it with the
    place of their last token.
    """
    groups: dict[tuple, list[int]] = {}
    for number, row in enumerate(rows):
        # what shares nothing stands by itself: side by side it would attend to nothing of each other, and cost a larger mask
        groups.setdefault(tuple(row["input_ids"][: row["shared"]]) or (-1 - number,), []).append(number)
    parts = []
    for schema, own in groups.items():
        schema = schema if schema[0] >= 0 else ()
        texts = [(rows[number]["input_ids"][len(schema) :], rows[number]["labels"]) for number in own]
        spans = [range(len(schema), len(schema) + len(text) + len(answer)) for text, answer in texts]
        parts.append((
            [*schema, *(i for text, answer in texts for i in text + answer)],
            [-100] * len(schema) + [i for text, answer in texts for i in [-100] * len(text) + answer],
            [*range(len(schema)), *(place for span in spans for place in span)],
            [0] * len(schema) + [number for number, span in enumerate(spans, 1) for _ in span],
            [-1] * len(schema) + [i for number, span in zip(own, spans) for i in [-1] * (len(span) - 1) + [number]],
        ))  # fmt: skip
    packs = [[parts[i] for i in pack] for pack in packed([len(part[0]) for part in parts])]
    *joined, last = [[[i for part in pack for i in part[column]] for pack in packs] for column in (0, 1, 2, 4)]
    segments = [[SPAN * number + i for number, part in enumerate(pack) for i in part[3]] for pack in packs]
    ends = [[(number, place) for place, number in enumerate(pack) if number >= 0] for pack in last]
    return dict(zip(("input_ids", "labels", "position_ids", "segments"), (*joined, segments))), ends


def tree(beams: Sequence[Sequence[int]]) -> tuple[list[int], list[int], list[int]]:
    """Lists of tokens, with their common beginnings once -> tokens, and places among them: of what stands before each, of ends.

    -1 is the place before the first.
    """
    places: dict[tuple[int, int], int] = {}
    tokens, before, ends = [], [], []
    for beam in beams:
        place = -1
        for token in beam:
            if (place, token) not in places:
                places[place, token] = len(tokens)
                tokens.append(token)
                before.append(place)
            place = places[place, token]
        ends.append(place)
    return tokens, before, ends


def shared_tokens(examples: Sequence[int], lengths: Sequence[int], schemas: Sequence[tuple[Hashable, int]]) -> list[int]:
    """Tokens of each schema's group among `examples`: the schema once, and all else of each; `lengths` are the examples'."""
    found = []
    for group in grouped(examples, schemas):
        schema = schemas[group[0]][1]
        found.append(schema + sum(lengths[index] - schema for index in group))
    return found


def _split(
    update: list[int], micro: int, lengths: Sequence[int], schemas: Sequence[tuple[Hashable, int]] | None
) -> list[list[int]]:
    """An update's examples in batches of `micro`; where they share schemas, in as many of about the same number of tokens."""
    if schemas is None:
        return [update[start : start + micro] for start in range(0, len(update), micro)]
    # no more than `micro` of a schema stay together: else there could be fewer groups than batches
    groups = _runs(update, lengths, schemas, micro)
    tokens = [sum(shared_tokens(group, lengths, schemas)) for group in groups]
    return [[index for group in own for index in groups[group]] for own in balanced(tokens, len(update) // micro)]


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
    schemas: Sequence[tuple[Hashable, int]] | None = None,
    variants: int = 1,
) -> Iterator[tuple[list[int], list[list[int]]]]:
    """For each micro-batch of updates `start` to `stop` - 1 on one rank: its indices, and all micro-batches of its update.

    An update's examples depend on micro x grad_accum x ranks alone, so two ranks with batches of 4 and one rank with a
    batch of 8 see the same updates. Ranks get neighbours in length, and wait little for each other. Where examples share
    schemas, `prompts` are whole lengths, and a micro-batch holds `micro` examples on average. Where each example stands there
    `variants` times, one pass behind the other, epochs take them in turn.
    """
    size, count = micro * grad_accum * ranks, len(prompts) // variants
    updates_per_epoch = -(-count // size)
    for update in range(start, stop):
        if update == start or update % updates_per_epoch == 0:
            epoch = update // updates_per_epoch
            first = epoch % variants * count
            own, texts = prompts[first : first + count], None if answers is None else answers[first : first + count]
            updates = epoch_updates(own, size, seed, epoch, texts, schemas)
        whole = _split([first + index for index in updates[update % updates_per_epoch]], micro, prompts, schemas)
        for accumulation in range(grad_accum):
            yield whole[accumulation * ranks + rank], whole


def describe(
    prompts: Sequence[int],
    answers: Sequence[int],
    examples_per_update: int,
    micro: int,
    seed: int,
    joined: bool = False,
    schemas: Sequence[tuple[Hashable, int]] | None = None,
) -> tuple[str, float]:
    """Numbers of tokens, in words, and the share of padding that the first epoch's batches of `micro` examples hold.

    `joined`: prompt and answer are one sequence and are padded as one. `schemas`: examples share them, as in `epoch_updates`.
    """
    real = padded = 0
    whole = [sum(pair) for pair in zip(prompts, answers)]
    orders = (whole, None) if joined else (prompts, answers)
    for update in epoch_updates(orders[0], examples_per_update, seed, 0, orders[1], schemas):
        for batch in _split(update, micro, whole, schemas):
            if schemas is not None:
                lengths = shared_tokens(batch, whole, schemas)
                rows = packed(lengths)
                real += sum(lengths)
                padded += len(rows) * max(sum(lengths[index] for index in row) for row in rows)
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
