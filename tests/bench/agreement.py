"""Compare our verdicts with the official scorer's, and list every disagreement.

python3 tests/bench/agreement.py PREDICTIONS_DIR VERDICTS_DIR SPIDER_DIR [NAME ...]

`PREDICTIONS_DIR/NAME.sql` holds one prediction a line for Spider's dev split, `VERDICTS_DIR/NAME.jsonl` one object a line
with `hardness`, `exact` and, where the official scorer ran the prediction, `exec`.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.answers.score import score
from data.benchmark.spider import load


def main() -> None:
    predictions, verdicts, spider = map(Path, sys.argv[1:4])
    names = sys.argv[4:] or sorted(path.stem for path in predictions.glob("*.sql"))
    benchmark = load(spider, ("dev",))
    for name in names:
        start = time.monotonic()
        rows = score(benchmark, "dev", (predictions / f"{name}.sql").read_text().splitlines())
        seconds = time.monotonic() - start
        official = [json.loads(line) for line in (verdicts / f"{name}.jsonl").read_text().splitlines()]
        for title, ours, theirs in (
            ("execution", "execution_match", "exec"),
            ("exact match", "exact_match", "exact"),
            ("hardness", "hardness", "hardness"),
        ):
            pairs = [(row, line) for row, line in zip(rows, official, strict=True) if theirs in line]
            wrong = [(row, line) for row, line in pairs if row[ours] != line[theirs]]
            if pairs:
                share = 100 * (1 - len(wrong) / len(pairs))
                print(f"{name}: {title} agrees on {share:.2f} % of {len(pairs)} ({seconds:.1f} s)")
            for row, line in wrong:
                print(f"  {row['index']} official {line[theirs]} ours {row[ours]} {row['error']} {row['message']}")
                print(f"    gold      {row['gold']}\n    predicted {row['predicted']}")


if __name__ == "__main__":
    main()
