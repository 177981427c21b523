"""How one trained model answers: freely or held to a grammar, greedily or with candidates that are run.

    python3 tests/bench/why.py --model SmolLM2-135M --data data/spider --out runs/why --keep --rows ROW,ROW-seed1
    python3 tests/bench/answers.py --model SmolLM2-135M --data data/spider --runs runs/why --out runs/answers
    python3 tests/bench/answers.py --records tests/bench/answers.jsonl

The second asks all of dev of every model that the first kept, in each of the ways, through `evaluate` of `llama_65b.py` with
its own options. The third prints the table of what is kept. What stands in `--out` or `--records` is not asked again.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import torch
import why
from accelerate import Accelerator
from compare import DO_NOT_RUN
from datasets import Dataset
from transformers import AutoModelForCausalLM

from data.answers.constrained import Grammars
from data.answers.score import interval
from data.common.files import write_atomically
from data.report.curves import markdown
from data.run.signals import Stop
from data.sqlite.execute import TIMED_OUT

# name -> whether answers are held to the grammar, and how many candidates there are
WAYS = {"free": (False, 1), "held": (True, 1), "free-4": (False, 4), "held-4": (True, 4), "held-8": (True, 8)}


def ask(name: str, given: argparse.Namespace) -> None:
    """Answer dev with one model in each way, and keep a record and the predictions of each."""
    record = json.loads((given.runs / f"{name}.json").read_text())
    row = why.Row(**{field.name: record[field.name] for field in fields(why.Row) if field.name in record})
    gpu = torch.cuda.is_available()
    dtype, device = (torch.bfloat16, torch.device("cuda")) if gpu else (torch.float32, torch.device("cpu"))
    model = AutoModelForCausalLM.from_pretrained(given.runs / name, dtype=dtype, device_map={"": device}).eval()
    model.get_base_model = lambda: model
    asked = replace(row, faults=tuple(row.faults))
    dev = Dataset.from_list(why.encoded(asked, "dev", given, given.dev_examples))
    benchmark = why.benchmark_of(given.data, row.others, row.values, row.plain, row.full)
    tokenizer = why.script.load_tokenizer(why.script.Args(model=given.model))
    grammars = Grammars(tokenizer, model.config.vocab_size)
    for way in given.ways.split(","):
        if (given.out / f"{name}.{way}.json").exists():
            continue
        held, beams = WAYS[way]
        size = max(1, given.eval_batch_size // beams)
        args = why.script.Args(model=given.model, num_beams=beams, back_translation=False, eval_batch_size=size,
                               max_output_tokens=given.new_tokens)  # fmt: skip
        accelerator = Accelerator(cpu=not gpu)
        rows, figures = why.script.evaluate(
            model, tokenizer, benchmark, dev, args, accelerator, Stop(), grammars if held else None
        )
        right = "".join(str(int(each["execution_match"])) for each in rows)
        # of the examples that any candidate answers right, a perfect choice would, too
        kept = dict(row=name, way=way, n=len(rows), right=right, exact_match=figures["exact_match"],
                    execution_accuracy=figures["execution_accuracy"], cut=sum(each["cut"] for each in rows),
                    errors=Counter(each["error"] for each in rows if each["error"]), eval_seconds=figures["eval_seconds"],
                    unchecked=sorted(grammars.unchecked), gpu=torch.cuda.get_device_name() if gpu else "cpu",
                    date=time.strftime("%Y-%m-%d"))  # fmt: skip
        write_atomically(given.out / f"{name}.{way}.jsonl", "".join(json.dumps(each) + "\n" for each in rows))
        write_atomically(given.out / f"{name}.{way}.json", json.dumps(kept) + "\n")
        print(
            f"{name}, {way}: {kept['execution_accuracy']:.1%}, {kept['eval_seconds']:.0f} s, {dict(kept['errors'])}", flush=True
        )


def read(given: argparse.Namespace) -> list[dict]:
    """The records that are there."""
    lines = given.records.read_text().splitlines() if given.records and given.records.exists() else []
    lines += [path.read_text() for path in sorted(given.out.glob("*.json"))] if given.out else []
    found = {(record["row"], record["way"]): record for record in map(json.loads, lines)}
    return list(found.values())


def table(records: list[dict]) -> str:
    """A line for each way, over the seeds, in Markdown."""
    head = ("answers", "seeds", "execution accuracy", "by seed (95 %)", "exact match", "do not run", "timed out", "cut",
            "questions/s")  # fmt: skip
    lines = [markdown(head), "|---" * len(head) + "|"]
    for way in WAYS:
        if own := [record for record in records if record["way"] == way]:
            shares = [record["execution_accuracy"] for record in own]
            ends = [interval(record["right"].count("1"), record["n"]) for record in own]
            seeds = ", ".join(f"{share:.1%} ({low:.1%} to {high:.1%})" for share, (low, high) in zip(shares, ends))

            def count(*classes: str, own: list[dict] = own) -> str:
                return ", ".join(str(sum(record["errors"].get(name, 0) for name in classes)) for record in own)

            lines.append(markdown((
                way, len(own), f"{statistics.fmean(shares):.1%}", seeds,
                f"{statistics.fmean(record['exact_match'] for record in own):.1%}", count(*DO_NOT_RUN), count(TIMED_OUT),
                ", ".join(str(record["cut"]) for record in own),
                ", ".join(f"{record['n'] / record['eval_seconds']:.0f}" for record in own),
            )))  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, metavar="FILE", help="records that are kept, a line each; new ones are added")
    parser.add_argument("--model", help="directory of the model that was trained: its tokenizer is used")
    parser.add_argument("--data", help="directory in Spider's layout")
    parser.add_argument("--runs", type=Path, help="the folder in which why.py kept models")
    parser.add_argument("--rows", help="names of why.py's rows, comma between; default: all that are kept there")
    parser.add_argument("--out", type=Path, help="records and predictions go here")
    parser.add_argument("--ways", default=",".join(WAYS), help="comma between")
    parser.add_argument("--eval_batch_size", type=int, default=256, help="questions times candidates")
    parser.add_argument("--new_tokens", type=int, default=160, help="of an answer at most")
    parser.add_argument("--dev_examples", type=int, default=0, help="so many, evenly spaced; 0: all")
    given = parser.parse_args()
    if given.runs:
        given.out.mkdir(parents=True, exist_ok=True)
        there = [path.parent.name for path in sorted(given.runs.glob("*/config.json"))]
        for name in given.rows.split(",") if given.rows else there:
            ask(name, given)
    records = read(given)
    print(table(records))
    if given.records:
        write_atomically(given.records, "".join(json.dumps(record) + "\n" for record in records))


if __name__ == "__main__":
    main()
