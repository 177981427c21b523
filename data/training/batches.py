"""The order of examples, which depends only on seed and epoch, not on the machine, and their division into forward passes."""

import heapq
import math
import random
from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence
from operator import itemgetter
from typing import NamedTuple

GROUP_SIZE = 8  # questions that share one copy of their schema, at most: 16 schemas in an update of 128
LONGEST = 2304  # tokens of such a group with its schema, unless one question has more; a forward pass needs memory for these
ATTENTION = 12_000  # tokens of a row at which dense attention costs as much as all else, estimated for LLaMA-65B
SPAN = 100_000  # between the numbers of two schemas in a pack: more than a batch has questions


def epoch_updates(
    lengths: Sequence[int], schemas: Sequence[tuple[Hashable, int]], size: int, seed: int, epoch: int
) -> list[list[int]]:
    """One epoch as updates, lists of `size` indices; `lengths` are the examples', in tokens.

    `schemas` holds for each example the name of the schema that it may share, and that schema's tokens; 0: it shares nothing.
    Up to GROUP_SIZE examples of one schema stand side by side. An update mixes many schemas, and long with short examples, so
    that all updates need about the same memory. The last is filled up from the beginning of the shuffled order, so that all
    have the same size and every example is seen. In the first epoch the two updates with most tokens come first: what does not
    fit on a GPU fails at once, not after hours. Two, as an optimiser allocates its state at the first step.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    while len(order) % size:
        order += order[: size - len(order) % size]
    updates = _side_by_side(order, lengths, schemas, size, rng)
    rng.shuffle(updates)
    if epoch:
        return updates
    tokens = [sum(shared_tokens(update, lengths, schemas)) for update in updates]
    heaviest = sorted(range(len(updates)), key=tokens.__getitem__, reverse=True)[:2]
    return [updates[i] for i in heaviest] + [update for i, update in enumerate(updates) if i not in heaviest]


def _side_by_side(
    order: list[int], lengths: Sequence[int], schemas: Sequence[tuple[Hashable, int]], size: int, rng: random.Random
) -> list[list[int]]:
    """`order` as updates of `size` examples: each run of one schema, roughly the longest first, goes where fewest tokens are.

    A run that fits into no update is divided.
    """

    def tokens(run: list[int]) -> int:
        return sum(shared_tokens(run, lengths, schemas))

    def rank(run: list[int]) -> float:
        return tokens(run) * (1 if schemas[run[0]][1] else rng.uniform(0.8, 1))  # else the same ones would meet in each epoch

    updates: list[list[int]] = [[] for _ in range(len(order) // size)]
    # a heap of (tokens so far, number of the update) for each number of free places; no run asks for more than GROUP_SIZE
    heaps: list[list[tuple[int, int]]] = [[] for _ in range(GROUP_SIZE + 1)]
    heaps[min(size, GROUP_SIZE)] = [(0, number) for number in range(len(updates))]
    for run in sorted(runs(order, lengths, schemas, GROUP_SIZE), key=rank, reverse=True):
        while run:
            wide_enough = [heap for heap in heaps[len(run) :] if heap] or [next(heap for heap in reversed(heaps) if heap)]
            total, number = heapq.heappop(min(wide_enough, key=itemgetter(0)))
            free = size - len(updates[number])
            part, run = run[:free], run[free:]
            updates[number] += part
            if free > len(part):
                heapq.heappush(heaps[min(free - len(part), GROUP_SIZE)], (total + tokens(part), number))
    return updates


def grouped(examples: Sequence[int], schemas: Sequence[Hashable]) -> list[list[int]]:
    """Examples grouped by schema, schemas in the order of their first example."""
    groups: dict[Hashable, list[int]] = {}
    for index in examples:
        groups.setdefault(schemas[index], []).append(index)
    return list(groups.values())


def runs(
    examples: Sequence[int],
    lengths: Sequence[int],
    schemas: Sequence[tuple[Hashable, int]],
    most: int,
    max_tokens: int = LONGEST,
) -> list[list[int]]:
    """Examples of one schema in runs of up to `most` examples and `max_tokens`, or of a single longer example."""
    runs: list[list[int]] = []
    for group in grouped(examples, schemas):
        schema = schemas[group[0]][1]
        tokens = max_tokens + 1
        for index in group:
            tokens += lengths[index] - schema
            if not schema or tokens > max_tokens or len(runs[-1]) == most:
                runs.append([])
                tokens = lengths[index]
            runs[-1].append(index)
    return runs


def balanced(lengths: Sequence[int], bins: int) -> list[list[int]]:
    """Indices of `lengths` in `bins` lists of about the same sum: longest first, each into the list with the least so far."""
    filled: list[list[int]] = [[] for _ in range(bins)]
    sums = [0] * bins
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = sums.index(min(sums))
        filled[place].append(index)
        sums[place] += lengths[index]
    return filled


def packed(lengths: Sequence[int], examples: Sequence[int] = (), most: int = 0) -> list[list[int]]:
    """Indices of `lengths` in rows of about the same sum; their number minimises the cost of dense attention and padding.

    Where `examples` says how many an index stands for, a row has up to `most` of them.
    """
    choices = (balanced(lengths, count) for count in range(1, len(lengths) + 1))
    allowed = [rows for rows in choices if not examples or max(sum(examples[i] for i in row) for row in rows) <= most]
    return min(allowed, key=lambda rows: _cost(*_shape(rows, lengths)))


def area(lengths: Sequence[int], one_row: bool = False) -> int:
    """The tokens of what `packed` makes of `lengths`, padding included, or of one row of all."""
    return sum(lengths) if one_row else math.prod(_shape(packed(lengths), lengths))


def _shape(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> tuple[int, int]:
    """The number of rows, and the tokens of the longest."""
    return len(rows), max(sum(lengths[index] for index in row) for row in rows)


def _cost(count: int, longest: int) -> float:
    """The time of so many rows of so many tokens, in those of a token without attention."""
    return count * longest * (1 + longest / ATTENTION)


class _Part(NamedTuple):
    """Questions and answers behind their schema, side by side; lists have a value a token."""

    input_ids: list[int]
    labels: list[int]
    position_ids: list[int]
    segments: list[int]  # 0: the schema, from 1 on its questions
    ends: list[int]  # at its last token the number of an example, else -1
    examples: int
    size: int  # tokens, with the columns that examples take beside them


def shared_packs(
    rows: Sequence[dict], most: int = 0, one_row: bool = False
) -> tuple[dict[str, list[list[int]]], list[list[tuple[int, int]]]]:
    """Tokenised examples -> lists by pack of input_ids, labels, position_ids and segments; and where examples end.

    An example has `labels` and `input_ids`, of which the first `shared` are its schema, and may have `columns`, which it takes
    beside them. A pack is a row of `packed`, of up to `most` examples, or holds all in `one_row`: a schema, the questions that
    share it, each followed by its answer, the next schema and so on. The positions of each question follow those of its schema;
    labels are -100 except for answers. Segments tell what may attend to what: each schema's number is a multiple of SPAN, and
    its questions have the numbers after it. The second value holds, for each pack, (example, index of its last token).
    """
    most, parts = most or len(rows), []
    schemas = [(tuple(row["input_ids"][: row["shared"]]), row["shared"]) for row in rows]
    lengths = [len(row["input_ids"]) + len(row["labels"]) for row in rows]
    # examples that share nothing stand by themselves: in a group they could not attend to each other, and enlarge the mask
    for numbers in runs(range(len(rows)), lengths, schemas, most, sum(lengths)):
        schema, _ = schemas[numbers[0]]
        texts = [(rows[number]["input_ids"][len(schema) :], rows[number]["labels"]) for number in numbers]
        spans = [range(len(schema), len(schema) + len(text) + len(answer)) for text, answer in texts]
        parts.append(_Part(
            input_ids=[*schema, *(i for text, answer in texts for i in text + answer)],
            labels=[-100] * len(schema) + [i for text, answer in texts for i in [-100] * len(text) + answer],
            position_ids=[*range(len(schema)), *(place for span in spans for place in span)],
            segments=[0] * len(schema) + [number for number, span in enumerate(spans, 1) for _ in span],
            ends=[-1] * len(schema) + [i for number, span in zip(numbers, spans) for i in [-1] * (len(span) - 1) + [number]],
            examples=len(numbers),
            size=len(schema) + sum(lengths[i] - len(schema) + rows[i].get("columns", 0) for i in numbers),
        ))  # fmt: skip
    rows_of = [range(len(parts))] if one_row else packed([p.size for p in parts], [p.examples for p in parts], most)
    packs = [[parts[i] for i in row] for row in rows_of]
    names = ("input_ids", "labels", "position_ids")
    columns = {name: [[i for part in pack for i in getattr(part, name)] for pack in packs] for name in names}
    columns["segments"] = [[SPAN * number + i for number, part in enumerate(pack) for i in part.segments] for pack in packs]
    last = [[number for part in pack for number in part.ends] for pack in packs]
    return columns, [[(number, place) for place, number in enumerate(each) if number >= 0] for each in last]


def shared_tokens(examples: Sequence[int], lengths: Sequence[int], schemas: Sequence[tuple[Hashable, int]]) -> list[int]:
    """For each schema's group among `examples` its tokens, with the schema counted once; `lengths` include the schema."""
    found = []
    for group in grouped(examples, schemas):
        schema = schemas[group[0]][1]
        found.append(schema + sum(lengths[index] - schema for index in group))
    return found


def packed_passes(
    update: list[int],
    lengths: Sequence[int],
    schemas: Sequence[tuple[Hashable, int]],
    ranks: int,
    max_tokens: int,
    most: int = 0,
    one_row: bool = False,
) -> list[list[list[int]]]:
    """An update as forward passes, each a list of examples per rank, with about the same number of tokens, longest first.

    A rank's pass has at most `max_tokens`, padding included, or a single example; widths are then rounded up. `most`:
    examples per pass and rank; 0: as many as fit. `one_row`: each pass is a row, without padding.
    """

    def tokens(groups: list[list[int]]) -> list[int]:
        return [sum(shared_tokens(group, lengths, schemas)) for group in groups]

    def cost(groups: list[list[int]]) -> float:
        sizes = tokens(groups)
        return sum(sizes) if one_row else _cost(*_shape(packed(sizes), sizes))

    def fits(groups: list[list[int]]) -> bool:
        few = not most or sum(map(len, groups)) <= most
        return few and (len(groups) == 1 or area(tokens(groups), one_row) <= max_tokens)

    together = min(GROUP_SIZE, most or GROUP_SIZE)
    groups = runs(update, lengths, schemas, together, min(LONGEST, max_tokens))
    count = max(-(-sum(tokens(groups)) // (ranks * max_tokens)), -(-len(update) // (ranks * most)) if most else 1)
    count = min(count, len(update) // ranks)
    while True:
        while len(groups) < count * ranks:  # else a rank without examples would hang the others
            longest = max(range(len(groups)), key=lambda group: len(groups[group]))
            run = groups.pop(longest)
            groups += [run[: len(run) // 2], run[len(run) // 2 :]]
        parts = [[groups[group] for group in part] for part in balanced(tokens(groups), count * ranks)]
        if all(map(fits, parts)) or (count + 1) * ranks > len(update):
            break
        count += 1
    shares: list[list[list[list[int]]]] = [[] for _ in range(ranks)]
    sums = [0.0] * ranks
    parts.sort(key=cost, reverse=True)
    for start in range(0, len(parts), ranks):  # the rank with least so far gets what takes longest: all wait for the last
        for rank, part in zip(sorted(range(ranks), key=sums.__getitem__), parts[start : start + ranks]):
            shares[rank].append(part)
            sums[rank] += cost(part)
    _level(shares, cost, fits)
    return [[[index for group in part for index in group] for part in passes] for passes in zip(*shares)]


def _level(
    shares: list[list[list[list[int]]]], cost: Callable[[list[list[int]]], float], fits: Callable[[list[list[int]]], bool]
) -> None:
    """Move questions from the rank that takes longest to the one that takes least, while that saves a hundredth of its time.

    `shares`: for each rank its passes, lists of groups. Of a group that is divided the schema counts twice.
    """
    costs = [[cost(part) for part in share] for share in shares]
    while True:
        sums = [sum(each) for each in costs]
        first, last = sums.index(max(sums)), sums.index(min(sums))
        if first == last:
            return
        to, best = costs[last].index(min(costs[last])), 0.99 * sums[first]
        move = None
        for place, part in enumerate(shares[first]):
            for number, group in enumerate(part):
                for count in range(1, len(group) + 1):
                    rest = part[:number] + [group[count:]] * (count < len(group)) + part[number + 1 :]
                    more = [*shares[last][to], group[:count]]
                    if not rest or not fits(more):
                        continue
                    after = cost(rest), cost(more)
                    longer = max(sums[first] - costs[first][place] + after[0], sums[last] - costs[last][to] + after[1])
                    if longer < best:
                        best, move = longer, (place, rest, more, after)
        if move is None:
            return
        place, shares[first][place], shares[last][to], (costs[first][place], costs[last][to]) = move


def padded_passes(
    update: list[int], prompts: Sequence[int], answers: Sequence[int], ranks: int, max_tokens: int, most: int = 0
) -> list[list[list[int]]]:
    """An update as forward passes, each a list of examples per rank, for models that pad prompts and answers separately.

    Examples of similar length go together, about as many tokens, padding included, in each pass, as all ranks wait for the
    last. A rank's pass has at most `max_tokens` of them, or one example. `most`: examples per pass and rank; 0: as many as fit.
    """
    order = sorted(update, key=lambda index: (-prompts[index], -answers[index]))

    def tokens(part: list[int]) -> int:
        return len(part) * (prompts[part[0]] + max(answers[index] for index in part))

    def filled(limit: int, most: int) -> list[list[int]]:
        parts: list[list[int]] = []
        for index in order:
            if not parts or len(parts[-1]) == most or tokens([*parts[-1], index]) > limit:
                parts.append([])
            parts[-1].append(index)
        return parts

    # no fewer than the ranks, or one without examples would hang the others
    wanted = min(-(-len(filled(max_tokens, most)) // ranks), len(update) // ranks) * ranks
    most = max(most, -(-len(update) // wanted)) if most else len(update)
    largest = len(update) * (max(prompts[index] for index in update) + max(answers[index] for index in update))
    limit = bisect_left(range(largest), True, key=lambda limit: len(filled(limit, most)) <= wanted)
    parts = filled(limit, most)
    while len(parts) < wanted:
        place = max((place for place, part in enumerate(parts) if len(part) > 1), key=lambda place: tokens(parts[place]))
        half = len(parts[place]) // 2
        parts[place : place + 1] = [parts[place][:half], parts[place][half:]]
    return [parts[start : start + ranks] for start in range(0, len(parts), ranks)]


def describe(prompts: Sequence[int], answers: Sequence[int], schemas: Sequence[tuple[Hashable, int]], size: int) -> str:
    """A line of token counts; where schemas are shared, also an epoch's tokens with and without that (`size`: of updates)."""
    line = (
        f"prompts: mean {sum(prompts) / len(prompts):.0f} tokens, longest {max(prompts):,} | SQL: mean "
        f"{sum(answers) / len(answers):.0f}, longest {max(answers):,}"
    )
    if not any(tokens for _, tokens in schemas):
        return line
    whole = [sum(pair) for pair in zip(prompts, answers)]
    left = sum(sum(shared_tokens(update, whole, schemas)) for update in epoch_updates(whole, schemas, size, 0, 0))
    return f"{line} | an epoch: {left:,} tokens, {sum(whole):,} if schemas were not shared"
