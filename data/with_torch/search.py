"""Greedy decoding and beam search of many questions at once, on tensors that stay where they are: a GPU can replay its steps.

A question has `beams` slots side by side. What goes on from another slot attends to that slot's earlier tokens, which `parent`
tells the model's step, so that beams cost neither copies of a prompt nor of its keys and values.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers import StaticCache

from data.answers.constrained import ConstrainedBatch, Grammars

Answers = list[tuple[list[int], float]]  # tokens with the mean of their log-likelihoods, likeliest first
SLOTS = 64  # beams of a pack at most: torch's attention takes 64 queries at a time through all keys of the pack


def none_left(left: int) -> bool:
    """Whether a batch with so many unfinished questions is over: when all are finished."""
    return not left


class Search:
    """The answers to a batch of questions.

    `run` needs a step of the model that reads `token` and `parent`, (questions, beams): the last token of each slot, and the
    slot of the same question that it goes on from.
    """

    def __init__(
        self,
        rows: Sequence[Mapping | None],
        beams: int,
        steps: int,
        vocabulary: int,
        end: int,
        device: torch.device,
        grammars: Grammars | None,
    ):
        """`rows` have the `schema` of their database, or are None where a place is empty; answers have up to `steps` tokens.

        `end` ends a sequence; `vocabulary`: logits of a token.
        """
        self.beams, self.steps, self.end, count = beams, steps, end, len(rows)

        def whole(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.long, device=device)

        # of what goes on the sums of log-likelihoods, at first of nothing in one slot; of what ended the means
        self.scores = torch.full((count, beams), -torch.inf, device=device)
        self.ended = self.scores.clone()
        self.scores[:, 0] = 0
        self.origin = whole(count, beams)  # where an answer that ended comes from: a step and a slot in one number
        self.done = torch.tensor([row is None for row in rows], device=device)
        self.aside = torch.zeros_like(self.done)  # what is to be asked again
        self.number, self.until = whole(1), whole(count)  # steps that were made, and those before a question was done
        self.token, self.parent = whole(count, beams), whole(count, beams) + torch.arange(beams, device=device)
        self.tokens, self.parents = whole(steps, count, beams), whole(steps, count, beams)
        self.report = whole(2, count, beams)
        self.held = None
        if grammars:
            self.held = ConstrainedBatch(grammars, [row and row["schema"] for row in rows], beams)
            places, pinned = count * beams, device.type == "cuda"
            self.masks = torch.full((places, self.held.words), -1, dtype=torch.int32, pin_memory=pinned)
            self.allowed = torch.full((places, 4 * self.held.words), 255, dtype=torch.uint8, device=device)
            self.bit = torch.arange(8, dtype=torch.uint8, device=device)

    def run(
        self,
        logits: torch.Tensor | None,
        forward: Callable[[], torch.Tensor],
        capture: bool,
        first: int = 0,
        make_room: Callable[["Search"], None] | None = None,
        enough: Callable[[int], bool] = none_left,
    ) -> list[Answers | None]:
        """Up to `beams` answers to each question, what was cut off behind what ended; None where it is to be asked again.

        `logits`, (questions, beams, vocabulary): of the first tokens, where they are known; else `first` is what answers begin
        with. `forward` gives those of the tokens that follow; `make_room` is called before it. Where `capture`, a GPU replays
        its kernels and those of a choice, which take longer to launch than to run, each as one CUDA graph. `enough` is told how
        many questions are unfinished, and says whether to leave them.
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
            if number + 1 == self.steps:
                break
            parents, tokens = self.report.tolist() if self.held else (None, None)
            # without a grammar nothing waits for the GPU, but every eighth step
            if self.held or number % 8 == 7:
                left = sum(max(own) >= 0 for own in tokens) if self.held else int((~self.done).sum())
                if enough(left):
                    self.aside |= ~self.done
                    break
            if make_room:
                make_room(self)
            step()
            if self.held:  # while the GPU computes
                self.held.advance(parents, tokens)
                self.mask()
        return self.answers()

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
        self.number.add_(1)
        # of those that end, the ones that are among the likeliest count, by their mean
        among = ends & (torch.arange(2 * beams, device=ends.device) < beams) & ~self.done[:, None]
        means = torch.cat([self.ended, (best / self.number).masked_fill(~among, -torch.inf)], 1)
        means, kept = means.topk(beams)
        self.origin.copy_(torch.cat([self.origin, (self.number - 1) * beams + slot], 1).gather(1, kept))
        self.ended.copy_(means)
        scores, kept = best.masked_fill(ends, -torch.inf).topk(beams)
        self.scores.copy_(self.scores.where(self.done[:, None], scores))
        self.token.copy_(token.gather(1, kept))
        self.parent.copy_(slot.gather(1, kept))
        self.tokens.index_copy_(0, self.number - 1, self.token[None])
        self.parents.index_copy_(0, self.number - 1, self.parent[None])
        self.until.add_(~self.done)
        # greedily, the first end is the answer; else as long as what goes on could still be likelier
        full = self.ended[:, -1] > -torch.inf
        over = full if beams == 1 else full & (self.ended[:, -1] >= self.scores[:, 0] / self.number)
        self.done |= over | (self.scores[:, 0] == -torch.inf)
        self.report[0] = self.parent
        self.report[1] = self.token.masked_fill(self.done[:, None] | (self.scores == -torch.inf), -1)

    def answers(self) -> list[Answers | None]:
        """What `run` returns, from what was chosen at each step."""
        names = ("tokens", "parents", "scores", "ended", "origin", "aside", "until")
        tokens, parents, scores, ended, origin, aside, until = (getattr(self, name).tolist() for name in names)

        def path(question: int, step: int, slot: int) -> list[int]:
            behind = []
            for number in range(step, -1, -1):
                behind.append(tokens[number][question][slot])
                slot = parents[number][question][slot]
            return behind[::-1]

        found: list[Answers | None] = []
        for question, length in enumerate(until):
            if aside[question]:
                found.append(None)
                continue
            whole = [(*divmod(place, self.beams), score) for score, place in zip(ended[question], origin[question])]
            cut = [(length, slot, score / max(1, length)) for slot, score in enumerate(scores[question])]
            own = [(path(question, step - 1, slot) + [self.end], mean) for step, slot, mean in whole if mean > -torch.inf]
            own += [(path(question, step - 1, slot), mean) for step, slot, mean in cut if mean > -torch.inf]
            found.append(own[: self.beams])
        return found


def does_not_fit(error: RuntimeError) -> bool:
    """Whether a batch took more memory than there is: where a graph is captured, torch words it in a way of its own."""
    return should_reduce_batch_size(error) or "CUDA error: out of memory" in str(error)


class CacheAtOnce(StaticCache):
    """Keys and values of all layers, on one device, get their memory with the first: where they do not fit, little is lost."""

    def update(self, key_states, value_states, layer_idx: int, *args, **kwargs):
        if not self.layers[layer_idx].is_initialized:
            for layer in self.layers:
                layer.lazy_initialization(key_states, value_states)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


class Columns:
    """The keys and values of answers behind those of their prompts, a column a token; each pack of questions has a row.

    Columns are used again once no beam attends to them: those of beams that lost, and of questions that are done.
    """

    def __init__(self, cache: StaticCache, mask: torch.Tensor, first: int, shares: Sequence[Sequence[int]], beams: int):
        """`mask` (packs, 1, slots, columns of `cache`): what the last token of each slot attends to, all of it before `first`.

        `shares`: for each question of each pack the columns that it may expect.
        """
        packs, _, self.slots, total = mask.shape
        self.cache, self.mask, self.first, self.shares = cache, mask, first, shares
        self.size, self.used = total - first, 0
        self.by_beam = mask.view(packs, -1, beams, total)  # by pack and question
        self.itself = torch.eye(self.slots, dtype=torch.bool, device=mask.device).expand(packs, 1, -1, -1)
        self.next = torch.arange(first, first + self.slots, device=mask.device)

    def attended(self, parent: torch.Tensor) -> torch.Tensor:
        """The mask of the next tokens: what the slots of `parent` (questions, beams) attend to, and each itself."""
        self._follow(parent)
        self.mask.index_copy_(3, self.next, self.itself)
        self.next.add_(self.slots)
        return self.mask

    def make_room(self, search: Search) -> None:
        """Before a step: where its tokens have no columns, use some again.

        Where even that leaves too few, questions are set aside, those first that have most beyond their share.
        """
        if self.used + self.slots > self.size:
            self._follow(search.parent)
            search.parent.copy_(torch.arange(search.beams, device=search.parent.device).expand_as(search.parent))
            answers = self.by_beam[..., self.first :]
            gone = search.done[:, None] | (search.scores == -torch.inf)
            answers.masked_fill_(gone.view(*answers.shape[:3], 1), False)
            counts = answers.any(2).sum(-1).tolist()
            aside = torch.tensor([self._aside(*each) for each in zip(counts, self.shares)], device=answers.device)
            answers.masked_fill_(aside[..., None, None], False)
            search.aside |= aside.view(-1)
            search.done |= search.aside
            self._compact()
        self.used += self.slots

    def _follow(self, parent: torch.Tensor) -> None:
        self.by_beam.copy_(torch.take_along_dim(self.by_beam, parent.view(*self.by_beam.shape[:3], 1), 2))

    def _aside(self, counts: list[int], shares: Sequence[int]) -> list[bool]:
        """Which questions of a pack have to go, so that the columns that the others have leave room for a step."""
        beyond = [count - share for count, share in zip(counts, [*shares, *[0] * len(counts)])]
        left = sum(counts)
        aside = [False] * len(counts)
        for question in sorted(range(len(counts)), key=beyond.__getitem__, reverse=True):
            if left + self.slots > self.size and counts[question]:
                aside[question] = True
                left -= counts[question]
        return aside

    def _compact(self) -> None:
        """Move the columns that something attends to to the front."""
        answers = self.mask[..., self.first :]
        live = answers.any(2)  # (packs, 1, columns)
        self.used = int(live.sum(-1).max())
        order = live.byte().argsort(dim=-1, descending=True, stable=True)[..., : self.used]
        kept = slice(self.first, self.first + self.used)
        self.mask[..., kept] = torch.take_along_dim(answers, order[:, :, None], 3)
        self.mask[..., kept.stop :] = False
        self.next.copy_(torch.arange(kept.stop, kept.stop + self.slots, device=self.next.device))
        for layer in self.cache.layers:
            places = order[..., None].to(layer.device)
            for states in (layer.keys, layer.values):
                states[:, :, kept] = torch.take_along_dim(states[:, :, self.first :], places, 2)
            layer.cumulative_length.fill_(kept.stop)


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
