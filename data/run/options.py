"""The options of a run: permitted values, defaults, and what follows from other options."""

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict
from typing import TypeVar

from data.common.errors import UserError
from data.common.output import say
from data.run.ask import NO_DATABASE, names_file
from data.run.checkpoints import checkpoint_of
from data.run.hardware import c_compiler
from data.sqlite.execute import MAX_SECONDS

Options = TypeVar("Options")
# minimum values
LEAST = dict.fromkeys(("epochs", "update_examples", "eval_batch_size", "max_output_tokens", "num_beams"), 1)
LEAST |= dict.fromkeys(("processes", "batch_size", "batch_tokens", "max_updates", "eval_every", "eval_examples", "overfit"), 0)
LEAST |= dict(save_every=-1, seed=0, lora_rank=1, lora_alpha=1, max_input_tokens=64)
BELOW_ONE = ("learning_rate", "warmup", "lora_dropout", "vary_schema")
GONE = dict(
    grad_accum="--update_examples gives an update's size, over all GPUs",
    cuda_graphs="answers are replayed where there is a GPU",
    no_cuda_graphs="answers are replayed where there is a GPU",
    no_compile="--compile off",
    no_gradient_checkpointing="--gradient_checkpointing off",
    relative_to="python3 -m data.report RUN RUN compares runs",
)


def defaults(words: Sequence[str], tiny: dict, published: dict) -> dict:
    """The defaults that --tiny and --published in a command line change. Raises UserError for removed options."""
    for word in words:
        name = word.split("=")[0].removeprefix("--").replace("-", "_")
        if word.startswith("--") and name in GONE:
            raise UserError(f"{word.split('=')[0]} is gone: {GONE[name]}")
    return (tiny if "--tiny" in words else {}) | (published if "--published" in words else {})


def resolve_options(args: Options, default: type[Options], published: dict) -> Options:
    """Check a script's options (a dataclass) and set those that follow from others. Raises UserError if one is out of range.

    With --published this prints which defaults `published` changes, and which of these the command line changes again.
    """
    check_options(asdict(args))
    if not args.learning_rate and default.learning_rate:  # elsewhere 0 finds a rate
        raise UserError("--learning_rate 0 trains nothing: give more, or leave it out")
    if args.published:
        usual = asdict(default())
        differs = [f"{name} {value} (default: {usual[name]})" for name, value in published.items()]
        say(f"the published recipe: {', '.join(differs)}")
        if own := [f"{name} {getattr(args, name)}" for name, value in published.items() if getattr(args, name) != value]:
            say(f"changed by the command line: {', '.join(own)}")
    if (args.db or args.ask) and args.model == default.model:
        if checkpoint_of(args.out):
            args.model = args.out
        elif not args.tiny and not args.random_weights:
            raise UserError(f"{args.out} has no best checkpoint: name another run, a checkpoint or a model with --model")
    if args.tiny and args.model != default.model and not checkpoint_of(args.model):
        raise UserError(
            f"--model {args.model} is no run or checkpoint, and --tiny makes its own model: name a run, or leave one out"
        )
    if args.overfit:
        args.max_updates, args.eval_every, args.save_every = args.max_updates or 300, 0, -1
    if (args.eval_only or args.overfit) and args.out == default.out:
        args.out += "-eval" if args.eval_only else "-overfit"  # leave the training run's folder alone
    return args


def check_options(options: dict) -> None:
    """Raise UserError for options that are out of range, or not possible together or here; scripts may lack some."""
    for name in set(LEAST) & set(options):
        if options[name] < LEAST[name]:
            raise UserError(f"--{name} {options[name]} is out of range: give {LEAST[name]} or more")
    if options.get("seed", 0) >= 2**32:
        raise UserError(f"--seed {options['seed']} is out of range: give less than 4,294,967,296")
    for name in set(BELOW_ONE) & set(options):
        if not 0 <= options[name] < 1:
            raise UserError(f"--{name} {options[name]} is out of range: give 0 or more and less than 1")
    if not 0 < options.get("seconds", 1) <= MAX_SECONDS:
        raise UserError(f"--seconds {options['seconds']} is out of range: give more than 0 and at most {MAX_SECONDS:g}")
    if options.get("split", "dev") != "dev" and not options.get("eval_only"):
        raise UserError(f"--split {options['split']} is to score a model that is finished: give --eval_only, too")
    if options.get("split", "dev") != "dev" and options.get("overfit"):
        raise UserError(f"--overfit answers what it learned, not --split {options['split']}: give one of them")
    if options["tiny"] and options["random_weights"]:
        raise UserError("--tiny and --random_weights are two sizes of one model: give one of them")
    if options.get("device_map") == "auto" and options["random_weights"]:
        raise UserError("--random_weights are drawn on one GPU: leave out --device_map auto")
    if options.get("device_map") == "auto" and options["processes"] > 1:
        raise UserError(f"--device_map auto is one process on all GPUs, not {options['processes']}: leave out --processes")
    if options.get("eval_only") and options.get("resume"):
        raise UserError("--eval_only scores a model and trains nothing that could be resumed: name it with --model")
    if options.get("overfit") and options.get("resume"):
        raise UserError("--overfit keeps no checkpoint to go on from: start it without --resume")
    if options.get("compile") == "on" and not c_compiler():
        raise UserError("--compile on needs a C compiler, and none is found: install gcc and g++, or leave it out")
    question = options.get("ask")
    if question is not None and not options["db"] and not names_file(question):
        raise UserError(NO_DATABASE)
    if options.get("answers") and not names_file(question):
        raise UserError("--answers is where those to a file of questions go: name one with --ask FILE")
    if question is not None and not question.strip():
        raise UserError("the question of --ask is empty: ask something about the database")
    tracker = options.get("report_to", "none")
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise UserError(f"--report_to {tracker}: it is not installed: pip install {tracker}")
