"""Greedy decoding and beam search of many questions at once, on tensors that stay where they are: a GPU can replay its steps.

A question has `beams` slots side by side. Keys and values never move: what goes on from another slot attends to that slot's
earlier tokens, which `parent` tells the model's step, so that beams cost neither copies of a prompt nor of its cache.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from accelerate.utils.memory import should_reduce_batch_size

from data.answers.constrained import ConstrainedBatch, Grammars
from data.benchmark.schema import Schema


@dataclass
class Hypotheses:
    """What is written to a question so far: lists of tokens with their log-likelihoods, likeliest first.

    `running` can go on, with sums over tokens; `ended` has the end of sequence as its last token, with means over tokens, by
    which beams of other lengths compare. Nothing of a question that is `done` goes on.
    """

    running: list[tuple[list[int], float]] = field(default_factory=lambda: [([], 0.0)])
    ended: list[tuple[list[int], float]] = field(default_factory=list)
    done: bool = False

    def best(self, beams: int) -> list[tuple[list[int], float]]:
        """Up to so many answers, likeliest first; what was cut off stands behind what ended."""
        cut = [(tokens, score / max(1, len(tokens))) for tokens, score in self.running]
        return [*self.ended, *cut][:beams]


class Search:
    """The next tokens of a batch of questions.

    `run` needs a step of the model that reads `token` and `parent`, (questions, beams): the last token of each slot, and the
    slot of the same question that it goes on from.
    """

    def __init__(
        self,
        before: Sequence[Hypotheses | None],
        schemas: Sequence[Schema | None],
        beams: int,
        steps: int,
        most: int,
        vocabulary: int,
        end: int,
        device: torch.device,
        grammars: Grammars | None,
    ):
        """`before`: what each question has so far, None where a place is empty; `schemas`: their databases'.

        At most `steps` tokens are added, up to `most` in all; `end` ends a sequence; `vocabulary`: logits of a token.
        """
        known = [one or Hypotheses(done=True) for one in before]
        self.before, self.beams, self.steps, self.most, self.end = known, beams, steps, most, end
        count = len(known)

        def scores(lists: list[list[tuple[list[int], float]]]) -> torch.Tensor:
            padded = [[score for _, score in each] + [-torch.inf] * (beams - len(each)) for each in lists]
            return torch.tensor(padded, device=device)

        def whole(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.long, device=device)

        self.scores, self.ended = scores([one.running for one in known]), scores([one.ended for one in known])
        # where an answer that ended comes from: a step and a slot in one number, or one that was there before
        self.origin = whole(count, beams) - 1 - torch.arange(beams, device=device)
        self.done = torch.tensor([one.done for one in known], device=device)
        lengths = [[float(len(one.running[0][0]) if one.running else most)] for one in known]
        self.length = torch.tensor(lengths, device=device)
        self.number, self.until = whole(1), whole(count)  # steps that were made, and those before a question was done
        self.token, self.parent = whole(count, beams), whole(count, beams) + torch.arange(beams, device=device)
        self.tokens, self.parents = whole(steps, count, beams), whole(steps, count, beams)
        self.report = whole(2, count, beams)
        self.held = None
        if grammars:
            running = [[] if one.done else [tokens for tokens, _ in one.running] for one in known]
            self.held = ConstrainedBatch(grammars, schemas, running, beams)
            rows, pinned = count * beams, device.type == "cuda"
            self.masks = torch.full((rows, self.held.words), -1, dtype=torch.int32, pin_memory=pinned)
            self.allowed = torch.full((rows, 4 * self.held.words), 255, dtype=torch.uint8, device=device)
            self.bit = torch.arange(8, dtype=torch.uint8, device=device)

    def run(
        self, logits: torch.Tensor | None, forward: Callable[[], torch.Tensor], capture: bool, first: int = 0
    ) -> list[Hypotheses]:
        """What each question has afterwards, those that were done before as they were.

        `logits`, (questions, beams, vocabulary): of the first tokens, where they are known; else `first` is what answers begin
        with. `forward` gives those of the tokens that follow. Where `capture`, a GPU replays its kernels and those of a choice,
        which take longer to launch than to run, each as one CUDA graph.
        """
        if logits is None:
            self.token.fill_(first)
            logits = forward()
        self.logits = logits.clone()

        def step() -> None:
            self.logits.copy_(forward())

        step, choose = (Replayed(run) if capture and self.token.device.type == "cuda" else run for run in (step, self.choose))
        if self.held:
            self.mask()
        for number in range(self.steps):
            if self.held:
                self.allowed.copy_(self.masks.view(torch.uint8), non_blocking=True)
            choose()
            if number + 1 == self.steps or not self.held and number % 8 == 7 and self.done.all():
                break
            parents, tokens = self.report.tolist() if self.held else (None, None)
            if self.held and not any(token >= 0 for own in tokens for token in own):
                break
            step()
            if self.held:  # while the GPU computes
                self.held.advance(parents, tokens)
                self.mask()
        return self.hypotheses()

    def mask(self) -> None:
        """Write what may follow in each slot, as bits, into `masks`."""
        free = self.held.masks(self.masks.data_ptr())
        self.masks[free] = -1

    def choose(self) -> None:
        """Extend each question's likeliest beginnings by their likeliest tokens, and set those aside that end."""
        count, beams, size = self.logits.shape
        scores = self.logits.float().log_softmax(-1)
        if self.held:  # eight tokens a byte
            allowed = (self.allowed[:, :, None] >> self.bit & 1).view(count, beams, -1)[:, :, :size]
            scores.masked_fill_(allowed == 0, -torch.inf)
        # twice as many as there are slots, as half of them may end
        best, place = (scores + self.scores[:, :, None]).flatten(1).topk(2 * beams)
        slot, token = place // size, place % size
        ends = token == self.end
        self.length.add_(1)
        # of those that end, the ones that are among the likeliest, by their mean
        among = ends & (torch.arange(2 * beams, device=ends.device) < beams) & ~self.done[:, None]
        means = torch.cat([self.ended, (best / self.length).masked_fill(~among, -torch.inf)], 1)
        means, kept = means.topk(beams)
        self.origin.copy_(torch.cat([self.origin, self.number * beams + slot], 1).gather(1, kept))
        self.ended.copy_(means)
        scores, kept = best.masked_fill(ends, -torch.inf).topk(beams)
        self.scores.copy_(self.scores.where(self.done[:, None], scores))
        self.token.copy_(token.gather(1, kept))
        self.parent.copy_(slot.gather(1, kept))
        self.tokens.index_copy_(0, self.number, self.token[None])
        self.parents.index_copy_(0, self.number, self.parent[None])
        self.until.add_(~self.done)
        # greedily, the first end is the answer; else as long as what goes on could still be likelier
        full = self.ended[:, -1] > -torch.inf
        over = full if beams == 1 else full & (self.ended[:, -1] >= self.scores[:, 0] / self.length[:, 0])
        self.done |= over | (self.scores[:, 0] == -torch.inf) | (self.length[:, 0] >= self.most)
        self.report[0] = self.parent
        self.report[1] = self.token.masked_fill(self.done[:, None] | (self.scores == -torch.inf), -1)
        self.number.add_(1)

    def hypotheses(self) -> list[Hypotheses]:
        """What each question has, from what was chosen at each step."""
        names = ("tokens", "parents", "scores", "ended", "origin", "done", "until")
        tokens, parents, scores, ended, origin, done, until = (getattr(self, name).tolist() for name in names)
        found = []

        for question, one in enumerate(self.before):

            def path(step: int, slot: int, question: int = question, one: Hypotheses = one) -> list[int]:
                behind = []
                for number in range(step, -1, -1):
                    behind.append(tokens[number][question][slot])
                    slot = parents[number][question][slot]
                return one.running[slot][0] + behind[::-1]

            if one.done:
                found.append(one)
                continue
            now = Hypotheses([], [], done[question])
            for score, place in zip(ended[question], origin[question]):
                if score > -torch.inf:
                    step, slot = divmod(place, self.beams)
                    now.ended.append(one.ended[-1 - place] if place < 0 else (path(step - 1, slot) + [self.end], score))
            for slot, score in enumerate(scores[question]):
                if score > -torch.inf:
                    now.running.append((path(until[question] - 1, slot), score))
            found.append(now)
        return found


def does_not_fit(error: RuntimeError) -> bool:
    """Whether a batch took more memory than there is: where a graph is captured, torch words it in a way of its own."""
    return should_reduce_batch_size(error) or "CUDA error: out of memory" in str(error)


def branch(
    trees: Sequence[tuple[list[int], list[int], list[int]]],
    ends: Sequence[Sequence[tuple[int, int]]],
    beams: int,
    mask: torch.Tensor,
    position_ids: torch.Tensor,
) -> torch.Tensor:
    """Where each beam of each example has its last token: (packs, examples a pack, beams).

    `trees` are the beginnings of each example's answers, as `batches.tree` has them, which stand behind its question in
    a pack; `ends` says where each ends. No beam sees another's tokens, and each stands behind its own: `mask` (packs, 1,
    longest, longest) and `position_ids` (packs, longest) are changed accordingly.
    """
    places = torch.zeros((len(ends), max(map(len, ends)), beams), dtype=torch.long)
    for pack, own in enumerate(ends):
        for place, (example, last) in enumerate(own):
            tokens, before, leaves = trees[example]
            start, count = last - len(tokens) + 1, len(tokens)
            places[pack, place] = start + torch.tensor(leaves + leaves[:1] * (beams - len(leaves)))
            if len(leaves) > 1:
                seen, depths = torch.eye(count, dtype=torch.bool), [0] * count
                for node, origin in enumerate(before):
                    if origin >= 0:
                        seen[node] |= seen[origin]
                        depths[node] = depths[origin] + 1
                mask[pack, 0, start : last + 1, start : last + 1] = seen
                position_ids[pack, start : last + 1] = position_ids[pack, start] + torch.tensor(depths)
    return places


class Replayed:
    """A function without arguments whose kernels, from its third call on, are replayed as one CUDA graph.

    The first two run as they are: the first may have kernels of its own, and the second is then captured, which runs nothing.
    """

    def __init__(self, run: Callable[[], None]):
        self.run, self.calls, self.graph = run, 0, None

    def __call__(self) -> None:
        self.calls += 1
        if self.graph:
            self.graph.replay()
            return
        self.run()
        if self.calls == 2:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.run()
