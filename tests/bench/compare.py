"""What the benchmarks that train in several ways compare: the answers of trainings, example by example."""

import math
import statistics

from data.sqlite.execute import FAILS, NO_COLUMN, NO_TABLE, PARSE

DO_NOT_RUN = (PARSE, NO_TABLE, NO_COLUMN, FAILS)


def mean_right(group: list[dict]) -> list[float]:
    """For each dev example the share of seeds that answer it right; a record's `right` has a digit for each."""
    return [statistics.fmean(map(int, each)) for each in zip(*(record["right"] for record in group), strict=True)]


def gap(first: list[dict], second: list[dict]) -> str:
    """The difference in points of execution accuracy, second - first, and its 95 % interval.

    It is paired by example, over the means of the seeds.
    """
    each = [b - a for a, b in zip(mean_right(first), mean_right(second), strict=True)]
    middle, half = statistics.fmean(each), 1.959964 * statistics.stdev(each) / math.sqrt(len(each))
    return f"{100 * middle:+.1f} ({100 * (middle - half):+.1f} to {100 * (middle + half):+.1f})"
