"""Choose among the answers of several runs by running them: those with equal results vote together. No gold is looked at."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from data.sqlite.execute import Executor, Result

LENGTH = 24  # tokens of an answer: its log-likelihood is about as many times its tokens' mean. 16 to 50 choose alike
EMPTY = 1e-3  # weight of a vote for a result without rows: few questions are asked about nothing
ROWS = 500  # of a result that are compared, and their number in all


def vote(executor: Executor, questions: Sequence[tuple[Path | str, Sequence[dict]]], progress: bool = False) -> list[int]:
    """For each (database, candidates) the index of the candidate that counts.

    Candidates are dicts of `sql` and `score`, the mean log-likelihood of their tokens. Each votes with its likelihood for what
    it returns. Of the result with the most votes the likeliest candidate counts; where none runs, the likeliest of all. Each
    gets the keys `rows` (their number) and `error` (its class; None where it runs).
    """
    jobs = dict.fromkeys((database, each["sql"]) for database, own in questions for each in own)
    results = dict(zip(jobs, executor.run(jobs, progress, keep=ROWS)))
    chosen = []
    for database, own in questions:
        votes, returned = defaultdict(float), []
        for each in own:
            result = results[database, each["sql"]]
            each |= dict(rows=result.count, error=result.error)
            returned.append(_returned(result))
            votes[returned[-1]] += math.exp(LENGTH * each["score"]) * (1 if result.count else EMPTY)
        worth = [(each["error"] is None, votes[what], each["score"]) for each, what in zip(own, returned)]
        chosen.append(max(range(len(own)), key=lambda place: (*worth[place], -place)))
    return chosen


def _returned(result: Result) -> tuple | None:
    """What is equal where results are, in whatever order of rows and columns; None for a statement that does not run."""
    if result.error is not None:
        return None
    return result.count, tuple(sorted(repr(sorted(map(repr, row))) for row in result.rows))
