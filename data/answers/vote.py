"""Choose among answers to a question by running them: those with equal results vote together. No gold is looked at."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from data.sqlite.execute import Executor, Result

QUESTION = 0.5  # weight of a `question_score` beside the `score`: 0.3 to 0.7 choose about alike
LENGTH = 24  # tokens of an answer: its log-likelihood is about as many times its tokens' mean. 16 to 50 choose alike
EMPTY = 1e-3  # weight of a vote for a result without rows, since few questions are asked about nothing, and of a cut answer's


def vote(executor: Executor, questions: Sequence[tuple[Path | str, Sequence[dict]]], progress: bool = False) -> list[int]:
    """For each (database, candidates) the index of the candidate that counts; a single one is not run.

    Candidates are dicts of `sql`, `score`, the mean log-likelihood of its tokens, `ended` and, where it was judged,
    `question_score`; one that was not counts as the worst of those that were. Each votes with its likelihood for what it
    returns (after MBR-Exec, https://arxiv.org/abs/2204.11454). Of the result with the most votes the likeliest candidate
    counts; where none runs, the likeliest of all. Where there are several, each gets the keys `rows` (their number) and
    `error` (its class; None where it runs).
    """
    # Spider asks most questions in two wordings
    jobs = dict.fromkeys((database, each["sql"]) for database, own in questions if len(own) > 1 for each in own)
    results = dict(zip(jobs, executor.run(jobs, progress, keep=0)))
    return [
        _elected(own, [results[database, each["sql"]] for each in own]) if len(own) > 1 else 0 for database, own in questions
    ]


def _elected(own: Sequence[dict], results: Sequence[Result]) -> int:
    judged = {each["sql"]: each["question_score"] for each in own if "question_score" in each}
    lowest = min(judged.values(), default=0.0)
    likely = [each["score"] + QUESTION * judged.get(each["sql"], lowest) for each in own]
    returned, votes = [(result.error is None, result.count, result.digest) for result in results], defaultdict(float)
    for each, result, what, likelihood in zip(own, results, returned, likely):
        each |= dict(rows=result.count, error=result.error)
        votes[what] += math.exp(LENGTH * (likelihood - max(likely))) * (1 if result.count and each["ended"] else EMPTY)
    return max(range(len(own)), key=lambda i: (results[i].error is None, votes[returned[i]], likely[i], -i))
