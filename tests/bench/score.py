"""How long scoring takes: medians, no assertions.

python3 tests/bench/score.py [--data DIR] [--repeat 3] [--workers 2] [--predictions FILE]

Scores the gold against itself on the splits of a directory in Spider's layout (default: the embedded sample), and one
prediction a line against dev if a file is given.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.answers.score import Scorer, totals
from data.benchmark.exact_match import SqlSchema, comparable, exact
from data.benchmark.sample import build
from data.benchmark.schema import Benchmark
from data.benchmark.spider import load


def median_seconds(repeat: int, work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, help="directory in Spider's layout (default: the sample)")
    parser.add_argument("--predictions", type=Path, help="one SQL a line, for dev")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    root = args.data or build()
    benchmark = load(root, train_others=(root / "train_others.json").is_file())
    for split, examples in benchmark.splits.items():
        measure(f"gold of {split}", benchmark, split, [example.sql for example in examples], args.workers, args.repeat)
    if args.predictions:
        lines = args.predictions.read_text().splitlines()
        measure(args.predictions.stem, benchmark, "dev", lines, args.workers, args.repeat)


def measure(title: str, benchmark: Benchmark, split: str, predictions: list[str], workers: int, repeat: int) -> None:
    """Print the seconds of a whole scoring, the start of the workers included, and of exact match alone."""
    schemas = {db_id: SqlSchema(schema) for db_id, schema in benchmark.schemas.items()}

    def whole() -> dict:
        with Scorer(benchmark, split, workers=workers) as scorer:
            return totals(scorer.score(predictions))

    def exact_match() -> None:
        for example, predicted in zip(benchmark.splits[split], predictions):
            schema = schemas[example.db_id]
            exact(comparable(schema, example.sql), comparable(schema, predicted))

    figures = whole()
    print(
        f"{title}: {len(predictions):,} predictions, {workers} workers: {median_seconds(repeat, whole):.2f} s, of which "
        f"exact match on one core {median_seconds(repeat, exact_match):.2f} s (medians of {repeat}); "
        f"execution accuracy {figures['execution_accuracy']:.2%}, exact match {figures['exact_match']:.2%}"
    )


if __name__ == "__main__":
    main()
