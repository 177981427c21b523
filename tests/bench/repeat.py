"""Does a GPU answer the same prompt the same way each time? With cuDNN's attention and without, down to every layer's bits.

    python3 tests/bench/repeat.py --model DIR --data data/spider
    python3 tests/bench/repeat.py --model DIR --data sample --seconds 5 --tokens 4

DIR holds a model of LLaMA's architecture. llama_65b.py writes to the same few prompts over and over, its steps replayed as one
CUDA graph; what each product and each attention gave is summed as whole numbers, and compared with the first time.
"""

import argparse
import collections
import sys
import time
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import llama_65b as script  # noqa: E402
from data.benchmark import sample, spider  # noqa: E402
from data.report.curves import markdown  # noqa: E402

PROMPTS = 8


def watch(layers: torch.nn.ModuleList, device: torch.device) -> tuple[list[str], torch.Tensor]:
    """Have each layer add up the bits of what its parts give -> the parts' names, in their order, and the sums."""
    names: list[str] = []
    sums = torch.zeros(6 * len(layers), dtype=torch.long, device=device)

    def add(place: int, value: torch.Tensor) -> None:
        sums[place].add_(value.contiguous().view(torch.int16 if value.element_size() == 2 else torch.int32).long().sum())

    def after(module: torch.nn.Module, name: str) -> None:
        place = len(names)
        names.append(name)
        module.register_forward_hook(lambda module, given, value: add(place, value))

    for layer in layers:
        attention = layer.self_attn
        for part in ("q_proj", "k_proj", "v_proj"):
            after(getattr(attention, part), part)
        place = len(names)
        names.append("attention")  # what it gives is what the output's projection gets
        attention.o_proj.register_forward_pre_hook(lambda module, given, place=place: add(place, given[0]))
        after(attention.o_proj, "o_proj")
        after(layer.mlp, "mlp")
    return names, sums


def trial(write, rows: list[dict], names: list[str], sums: torch.Tensor, seconds: float) -> tuple[int, int, int, str]:
    """Write to each row in turn for so long -> answers compared, with other sums, with other tokens, and what differs first."""
    first: dict[int, tuple] = {}
    compared = texts = 0
    where: collections.Counter = collections.Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end or not compared:
        for number, row in enumerate(rows):
            sums.zero_()
            (answer,) = write([row])
            found = answer, sums.tolist()
            earlier = first.setdefault(number, found)
            if earlier is not found:
                compared += 1
                texts += answer != earlier[0]
                if other := [name for name, one, now in zip(names, earlier[1], found[1]) if one != now]:
                    where[other[0]] += 1
    return compared, sum(where.values()), texts, ", ".join(f"{name} {count}" for name, count in where.most_common())


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR", help="a model's directory")
    parser.add_argument("--data", required=True, help="directory in Spider's layout, or sample")
    parser.add_argument("--seconds", type=float, default=60, help="with each kind of attention")
    parser.add_argument("--tokens", type=int, default=192, help="of an answer at most")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args = script.Args(model=given.model, num_beams=1, max_output_tokens=given.tokens)
    base = script.base_of(asdict(args), script.SCRIPT)
    config, tokenizer = script.load_config(args, base), script.load_tokenizer(args)
    benchmark = spider.load(sample.build() if given.data == "sample" else given.data)
    dev = benchmark.splits["dev"]
    chosen = [dev[number * len(dev) // PROMPTS] for number in range(PROMPTS)]
    columns = {name: [getattr(example, name) for example in chosen] for name in ("question", "db_id", "values", "sql")}
    encoded = script.encode(columns, benchmark.schemas, tokenizer, args.max_input_tokens, True)
    pairs = zip(encoded["input_ids"], encoded["shared"])
    rows = [dict(input_ids=ids, shared=shared, schema=None, columns=given.tokens) for ids, shared in pairs]
    model = script.load_model(args, base, config, tokenizer, device).eval()
    names, sums = watch(model.get_base_model().base_model.layers, device)

    def write(rows: list[dict]) -> list[list[int]]:
        found = script.write(model, rows, args, tokenizer, None)
        return [tokens for ((tokens, _),) in found]

    head = ("attention", "answers compared", "a layer's bits differ", "tokens differ", "differs first")
    print(f"{markdown(head)}\n{'|---' * len(head)}|", flush=True)
    for kind, cudnn in (("torch's choice", True), ("without cuDNN's", False)):
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        print(markdown((kind, *map(str, trial(write, rows, names, sums, given.seconds)))), flush=True)


if __name__ == "__main__":
    main()
