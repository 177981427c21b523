"""Fine-tune T5-3B on Spider, all weights, plain or under DeepSpeed ZeRO-2, and score it by running the SQL it writes.

    python3 T5_3B.py --tiny                         no GPU: a small random model on the embedded sample, a few minutes
    python3 T5_3B.py                                one GPU of 48 GB, Adafactor, on data/spider
    deepspeed T5_3B.py                              every visible GPU, ZeRO-2 from ds_config_zero2.json, AdamW
    deepspeed T5_3B.py --random_weights             the real size, nothing downloaded: does it fit, how fast is it
    deepspeed T5_3B.py --resume                     goes on from the last checkpoint in runs/T5_3B
    python3 T5_3B.py --eval_only --model runs/T5_3B scores the best checkpoint of a run
    python3 T5_3B.py --ask "How many?" --db FILE          SQL and result; without --ask, questions are typed
    python3 T5_3B.py --ask questions.csv                  the same for each question, into questions.answers.jsonl

A run leaves runs/T5_3B: report.html, curves.png, result.json, predictions.jsonl, log.jsonl, best/ and last/.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Literal

import torch
import tyro
from accelerate import Accelerator, DeepSpeedPlugin, DistributedType, InitProcessGroupKwargs
from accelerate.utils import DummyOptim, broadcast_object_list, gather_object, set_seed
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import Adafactor, AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast, T5Config
from transformers.cache_utils import DynamicCache, EncoderDecoderCache, StaticCache

from data.answers.candidates import candidates, scored, too_long
from data.answers.constrained import Grammars, grammars_for
from data.answers.score import totals
from data.benchmark.prompt import fit, prompt, target
from data.benchmark.schema import Benchmark, Schema
from data.common.errors import UserError, exit_on_user_error
from data.common.files import read_object
from data.run.ask import bare_ask, conversation
from data.run.checkpoints import base_of, checkpoint_of, recover, replace_folder, room_for, seal
from data.run.options import defaults, settled
from data.run.run_folder import RunFolder
from data.run.signals import Stop
from data.training.health import first_loss, learned
from data.training.small_tokenizer import word_tokenizer
from data.training.training_data import TrainingData, load_benchmark
from data.with_torch.memory import compiles, forward_tokens
from data.with_torch.search import Hypotheses, Search, does_not_fit

SCRIPT = Path(__file__).stem

# ----------------------------------------------------------------------------------------------------------- options


@dataclass
class Args:
    model: str = "google-t5/t5-3b"  # hub id, a model's directory, or a run folder or checkpoint of this script
    tiny: bool = False  # a small random model on the sample, for a machine with no GPU; other defaults: TINY below
    random_weights: bool = False  # the real size from its configuration, nothing downloaded
    data: str = "data/spider"  # a directory in Spider's layout, or `sample`
    train_others: bool = False  # train on train_others.json too
    published: bool = False  # the published table's recipe: other defaults, PUBLISHED below
    plain_sql: bool = True  # learn SQL in one spelling: names as in the schema, no T1 and T2
    full_names: bool = True  # as --plain_sql, and columns as table.column in prompt and SQL; a run keeps its choice
    vary_schema: float = 0.4  # up to this share of what its question does not need is left out of a schema, anew each epoch
    values: bool = True  # cells of the database that the question mentions stand in its prompt; a run keeps its choice
    overfit: int = 0  # learn so many examples, 32 say, in 300 updates, and answer them: can this pipeline learn at all?
    out: str = f"runs/{SCRIPT}"  # the run folder; an earlier run there moves aside
    local_rank: int = -1  # the deepspeed launcher gives it: this script knows the launcher by it
    deepspeed: str = "ds_config_zero2.json"  # the launcher's configuration, by default beside this script; none: plain
    optimizer: Literal["adafactor", "adamw"] = "adafactor"  # of the plain path; under DeepSpeed its file names one
    epochs: int = 10  # passes over the training examples
    max_updates: int = 0  # stop after so many optimiser steps; 0: when the epochs are over
    update_examples: int = 128  # examples an update, over all GPUs
    batch_tokens: int = 0  # tokens a GPU and forward pass, padding included; 0: as many as fit
    batch_size: int = 0  # examples a GPU and forward pass at most; 0: as many as fit
    eval_batch_size: int = 128  # examples a GPU that are answered together; halved where they do not fit
    learning_rate: float = 1e-4  # peak
    warmup: float = 0.03  # share of the updates; then linear decay to 0
    max_input_tokens: int = 1024  # longer prompts lose schema that the question does not name: 8 % of Spider's
    max_output_tokens: int = 256  # Spider's longest SQL has 250 T5 tokens
    constrained: bool = True  # answers name only what their database has, and parse: with --plain_sql or --full_names
    num_beams: int = 1  # candidates; the first counts that runs and returns rows; 1: greedy
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"  # recompute activations: less memory, a third slower
    compile: Literal["auto", "on", "off"] = "off"  # compile the layers for training; needs a C compiler
    eval_every: int = 500  # updates between evaluations; 0: only at the end
    eval_examples: int = 0  # evaluate on so many dev examples, evenly spaced; 0: on all
    save_every: int = 500  # updates between checkpoints; 0: only at the end; -1: none, for trials
    resume: bool = False  # go on from the last checkpoint in --out
    force: bool = False  # resume also where other options make it another run
    eval_only: bool = False  # score --model on --split and stop
    split: Literal["dev", "test"] = "dev"  # the examples that are scored; test: with --eval_only
    seconds: float = 5.0  # the limit of one statement: more, where a gold is slow
    ask: str | None = None  # a question about --db, or a .csv, .jsonl or .txt of them; left out, questions are typed
    db: str = ""  # the SQLite file that is asked; questions in a file may name theirs in a column db
    answers: str = ""  # the .jsonl or .csv for a file of questions; what it holds is not asked again; else beside that file
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"  # an experiment tracker, where it is installed
    relative_to: str = ""  # a finished run, whose times are 1 in the row that this one prints
    seed: int = 0  # of random weights, dropout and the order of examples


# what --tiny changes: the same code, at a size for two CPU cores and five minutes
TINY = dict(data="sample", vary_schema=0.0, optimizer="adamw", epochs=4, update_examples=16, eval_batch_size=64,
            learning_rate=1e-3, max_output_tokens=96, eval_every=1000)  # fmt: skip
# what --published changes: the published table's sizes (under DeepSpeed 2 examples), prompt and SQL as they stand in the data
PUBLISHED = dict(plain_sql=False, full_names=False, vary_schema=0.0, values=False, update_examples=16, batch_size=1,
                 eval_batch_size=4, gradient_checkpointing="off", compile="off")  # fmt: skip


def parse() -> Args:
    """The options. Raises UserError for one that is out of range."""
    words = " ".join(sys.argv).replace("=", " ")
    zero2 = " --local_rank " in words and " --deepspeed none" not in words
    published = PUBLISHED | dict(batch_size=2) if zero2 else PUBLISHED
    default = replace(Args(), **defaults(sys.argv, TINY, published))
    args = tyro.cli(Args, args=bare_ask(sys.argv[1:]), description=__doc__, default=default)
    return settled(args, Args, published)


# ------------------------------------------------------------------------------------------------------------ set-up


def under_deepspeed(args: Args) -> bool:
    """Whether the deepspeed launcher started this process and --deepspeed does not turn it off."""
    return args.local_rank >= 0 and args.deepspeed != "none"


def zero2_config(args: Args) -> dict | None:
    """The DeepSpeed configuration with the options in its `auto`, None for the plain path. Raises UserError."""
    if not under_deepspeed(args):
        return None
    try:
        from deepspeed.runtime.config import DeepSpeedConfig  # takes seconds, and the plain path has no use for it
    except ImportError as error:
        raise UserError(f"deepspeed cannot be imported ({error}): install it, or run python3 {SCRIPT}.py without it") from None
    path = Path(__file__).with_name(Args.deepspeed) if args.deepspeed == Args.deepspeed else Path(args.deepspeed)
    config = read_object(path, "name a DeepSpeed configuration with --deepspeed FILE, or none with --deepspeed none")
    # an update's forward passes, which tokens decide, are one step to DeepSpeed
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    each = max(1, args.update_examples // ranks)
    batches = dict(train_micro_batch_size_per_gpu=each, gradient_accumulation_steps=1, train_batch_size=each * ranks)
    for name, value in batches.items():
        if config.setdefault(name, value) not in (value, "auto"):
            raise UserError(f"{path}: {name} is {config[name]}, and the options make it {value}: write auto there")
        config[name] = value
    if config.setdefault("gradient_clipping", "auto") == "auto":
        config["gradient_clipping"] = 1.0
    try:
        read = DeepSpeedConfig({name: value for name, value in config.items() if name != "train_batch_size"})
    except Exception as error:
        raise UserError(f"{path} is no configuration that DeepSpeed takes: {error}") from None
    if read.float16_config.enabled:
        raise UserError(f"{path} enables fp16, in which T5 overflows: enable bf16 instead")
    if read.zero_config.stage != 2:
        raise UserError(f"{path} has the ZeRO stage {int(read.zero_config.stage)}: this script saves and resumes stage 2")
    if "scheduler" in config:
        raise UserError(f"{path} has a scheduler: remove it, --learning_rate and --warmup set the rate")
    return config


# ------------------------------------------------------------------------------------------------------------ tokens

MISSING = "<{}\\^~`"  # characters of SQL that T5's vocabulary lacks: it would write `age <= 30` as `age = 30`
PIECES = [space + character for character in MISSING for space in ("", "▁")]  # within a word, and at its start


def load_tokenizer(args: Args, benchmark: Benchmark | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer of --model, or one trained on the benchmark, with the pieces that T5 lacks."""
    checkpoint = checkpoint_of(args.model)
    try:
        small = args.tiny and not checkpoint
        tokenizer = small_tokenizer(benchmark) if small else from_hub(AutoTokenizer, checkpoint or args.model)
    except UserError:
        if not args.random_weights:
            raise
        print("no tokenizer at hand: a small one stands in, and numbers of tokens differ from the real one's")
        tokenizer = small_tokenizer(benchmark)
    tokenizer.model_max_length = int(1e9)  # T5's positions are relative: this script's options are the limits
    # into the vocabulary itself: after an added token, T5's decoder would write a space that was not there
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = spec["model"]["vocab"]
    known, lowest = {piece for piece, _ in vocabulary}, min(score for _, score in vocabulary)
    vocabulary += [[piece, lowest] for piece in PIECES if piece not in known]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(spec))
    return tokenizer


def small_tokenizer(benchmark: Benchmark) -> PreTrainedTokenizerFast:
    """A tokenizer of T5's kind with the same gaps, made on the spot."""
    tokenizer = word_tokenizer(benchmark, special=["<pad>", "</s>", "<unk>"], lacking=MISSING)
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def encode(rows: dict, schemas: dict[str, Schema], tokenizer: PreTrainedTokenizerFast, limit: int) -> dict:
    """Examples -> input_ids (prompt, end) of at most `limit` tokens, labels (SQL, end), and whether schema was left out."""
    triples = zip(rows["question"], rows["db_id"], rows["values"])
    asked = [(question, schemas[db_id], values) for question, db_id, values in triples]
    inputs = tokenizer([prompt(*each) for each in asked]).input_ids
    shortened = [len(ids) > limit for ids in inputs]
    for i in [i for i, long in enumerate(shortened) if long]:
        inputs[i] = tokenizer(fit(*asked[i], limit, lambda text: len(tokenizer(text).input_ids))[0]).input_ids
    return dict(input_ids=inputs, labels=tokenizer([target(sql) for sql in rows["sql"]]).input_ids, shortened=shortened)


def collate(rows: list[dict], pad: int) -> dict[str, torch.Tensor]:
    """Examples -> input_ids, attention_mask, labels, each (examples, longest); padding is masked by length, not by id.

    On a GPU the first two are filled up to a multiple of 16, else attention would fill up its position bias in every layer.
    """
    ids, labels = [row["input_ids"] for row in rows], [row["labels"] for row in rows]

    def padded(sequences: list[list[int]], filler: int, multiple: int = 1) -> torch.Tensor:
        longest = -(-max(map(len, sequences)) // multiple) * multiple
        return torch.tensor([sequence + [filler] * (longest - len(sequence)) for sequence in sequences])

    aligned = 16 if torch.cuda.is_available() else 1
    mask = padded([[1] * len(sequence) for sequence in ids], 0, aligned)
    return dict(input_ids=padded(ids, pad, aligned), attention_mask=mask, labels=padded(labels, -100))


# ------------------------------------------------------------------------------------------------------------- model

# google-t5/t5-3b; its output layer is its embeddings, which this configuration takes for granted
CONFIG = dict(vocab_size=32128, d_model=1024, d_kv=128, d_ff=16384, num_layers=24, num_heads=32, dropout_rate=0.1,
              feed_forward_proj="relu", decoder_start_token_id=0)  # fmt: skip
TINY_CONFIG = CONFIG | dict(vocab_size=2048, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, dropout_rate=0.0)
MAX_CPU_PARAMETERS = 200e6  # a larger model trains for days on a CPU


def from_hub(auto: type, source: str | Path):
    """A configuration or tokenizer from a directory or the hub. Raises UserError where it is not to be had."""
    try:
        return auto.from_pretrained(source)
    except Exception as error:  # a directory that is no model's raises many kinds
        remedy = "name a model's directory with --model DIR, or use --tiny or --random_weights"
        raise UserError(f"the model {source} can be neither found nor downloaded: {remedy} ({error})") from None


def load_config(base: dict) -> T5Config:
    """The architecture. Raises UserError where this script does not train it, or this machine cannot."""
    gpu = torch.cuda.is_available()
    remedy = "use a machine with a GPU, name a small model's directory with --model DIR, or use --tiny"
    if gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(f"{torch.cuda.get_device_name()} does not compute in bf16: use an Ampere GPU or a later one")
    if base["tiny"] or base["random_weights"]:
        config = T5Config(**(TINY_CONFIG if base["tiny"] else CONFIG))
    elif gpu or Path(base["model"]).is_dir():
        config = from_hub(AutoConfig, base["model"])
    else:
        raise UserError(f"no GPU is visible for {base['model']}, no directory: {remedy}; --random_weights needs a GPU too")
    if config.model_type != "t5":
        raise UserError(f"the model {base['model']} is of the type {config.model_type}: {SCRIPT}.py trains t5")
    if not gpu and sum(weight.numel() for weight in skeleton(config).parameters()) > MAX_CPU_PARAMETERS:
        raise UserError(f"no GPU is visible, and {base['model']} is too large for a CPU: {remedy}")
    return config


def skeleton(config: T5Config, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The model with no memory for its weights (meta device)."""
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(config, dtype=dtype)
    model.tie_weights()  # some versions of transformers leave them apart on the meta device
    return model


def random_model(config: T5Config, seed: int, device: torch.device) -> torch.nn.Module:
    """Random weights, drawn on `device` one layer at a time."""
    model, generator = skeleton(config), torch.Generator(device).manual_seed(seed)
    made: dict[torch.nn.Parameter, torch.nn.Parameter] = {}  # tied weights stay tied
    for path, module in model.named_modules():
        for name, empty in list(module.named_parameters(recurse=False)):
            if empty not in made:
                weight = torch.ones(empty.shape, device=device, dtype=torch.float32)
                if weight.dim() == 2:
                    std = 1.0 if isinstance(module, torch.nn.Embedding) else weight.shape[1] ** -0.5
                    std *= config.d_kv**-0.5 if path.endswith(".q") else 1.0  # T5 does not scale its attention scores
                    weight.normal_(0, std, generator=generator)
                made[empty] = torch.nn.Parameter(weight)
            setattr(module, name, made[empty])
    return model


def load_model(args: Args, base: dict, config: T5Config, tokenizer: PreTrainedTokenizerFast, device: torch.device):
    """The model in float32, new or from the checkpoint that --model names."""
    checkpoint = checkpoint_of(args.model)
    if (base["tiny"] or base["random_weights"]) and not checkpoint:
        model = random_model(config, base["seed"], device)
    else:
        how = dict(dtype=torch.float32, device_map={"": device})
        model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint or base["model"], config=config, **how)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise UserError(f"{base['model']} has fewer embeddings than its tokenizer has pieces: name a whole model")
    lean_biases(model)
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits.float())  # bf16 would round the loss
    if not checkpoint:
        pieces, kin = tokenizer.convert_tokens_to_ids(PIECES), tokenizer.convert_tokens_to_ids([">", "▁>"])
        matrix = model.get_input_embeddings().weight.data
        matrix[pieces] = matrix[kin].repeat(len(MISSING), 1)  # a better start than rows that nothing has trained
    return model


def lean_biases(model: torch.nn.Module) -> None:
    """Have the position biases made as attention takes them: in autocast's type and row by row.

    transformers lays them out head by head within a position, in float32, and each layer lays the mask of every example over
    them: a tensor as large as the scores, that each would have to convert, forward and backward.
    """

    def lean(compute: Callable[..., torch.Tensor], *lengths, **how) -> torch.Tensor:
        bias = compute(*lengths, **how)
        kind = bias.device.type
        return bias.to(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else bias.dtype).contiguous()

    for stack in (model.encoder, model.decoder):
        attention = stack.block[0].layer[0].SelfAttention
        attention.compute_bias = partial(lean, attention.compute_bias)


def answer_loss(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The summed cross-entropy of a batch's answer tokens, float32."""
    return model(**batch).loss.float() * (batch["labels"] != -100).sum()


def count_parameters(model: torch.nn.Module) -> dict:
    """All and trainable weights, and the trainable share."""
    total = sum(weight.numel() for weight in model.parameters())
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return dict(parameters=total, trainable_parameters=trainable, trainable_percent=100 * trainable / total,
                trainable_percent_packed=100 * trainable / total)  # fmt: skip


def flops_per_token(model: torch.nn.Module) -> tuple[int, int]:
    """Training FLOPs of a prompt token and of an answer token: 6 a weight that it passes (Kaplan et al., 2020)."""
    parts = (model.encoder.block, model.decoder.block, model.lm_head)
    encoder, decoder, last = (sum(weight.numel() for weight in part.parameters()) for part in parts)
    return 6 * encoder, 6 * (decoder + last)


# -------------------------------------------------------------------------------------------------------- evaluation


# without cuDNN's attention, the first choice on an H100: to the same single query it now and then gives another result
@sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
@torch.inference_mode()
def generate(
    model, tokenizer, examples: Dataset, schemas: dict[str, Schema], args: Args, accelerator: Accelerator, stop: Stop,
    grammars: Grammars | None = None,
) -> list[list[dict]] | None:  # fmt: skip
    """Up to --num_beams answers to each example, likeliest first, `too_long` to some; None once a signal asks to stop.

    Every rank writes a share, and gets all. Where there are `grammars`, answers are held to that of their database.
    """
    lengths, limit = [len(ids) for ids in examples["input_ids"]], args.max_input_tokens
    mine = sorted((i for i, length in enumerate(lengths) if length <= limit), key=lambda i: -lengths[i])
    mine = mine[accelerator.process_index :: accelerator.num_processes]
    answers, room, end = [], sys.maxsize, tokenizer.eos_token_id  # room: how many tokens a batch may hold
    bar = tqdm(total=len(mine), desc="predict", disable=not (accelerator.is_main_process and sys.stderr.isatty()))
    while len(answers) < len(mine) and not stop.requested:
        longest = lengths[mine[len(answers)]] + args.max_output_tokens
        size = max(1, min(args.eval_batch_size, room // longest))
        chosen = mine[len(answers) : len(answers) + size]
        rows = [dict(examples[i], schema=schemas[examples[i]["db_id"]]) for i in chosen]
        try:
            with accelerator.autocast():
                written = write(model, rows, args, tokenizer, grammars, accelerator.device)
        except RuntimeError as error:
            if size == 1 or not does_not_fit(error):
                raise
            room = size * longest // 2
            print(f"{size} examples of up to {longest} tokens do not fit the memory: going on with {room // longest} a batch")
            continue
        answers += zip(chosen, (candidates(one.best(args.num_beams), tokenizer, end) for one in written))
        bar.update(len(chosen))
    everyone = gather_object(answers) + [(i, too_long(length, limit)) for i, length in enumerate(lengths) if length > limit]
    return [own for _, own in sorted(everyone, key=itemgetter(0))] if len(everyone) == len(examples) else None


def write(model, rows: list[dict], args: Args, tokenizer, grammars: Grammars | None, device: torch.device) -> list[Hypotheses]:
    """The answers to each example, with its `schema`: up to --num_beams, or up to --max_output_tokens.

    The beams of an example stand side by side as one sequence of its decoder, so that they share what the encoder made of its
    prompt; each attends to its own tokens. Keys and values have all their places from the beginning.
    """
    batch = collate(rows, tokenizer.pad_token_id)
    inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
    count, beams, steps = len(rows), args.num_beams, args.max_output_tokens
    self_cache = StaticCache(config=model.config, max_cache_len=steps * beams)
    cache = EncoderDecoderCache(self_cache, DynamicCache(config=model.config))
    how = dict(encoder_outputs=model.get_encoder()(**inputs), past_key_values=cache, use_cache=True)
    prompt_mask = inputs["attention_mask"].bool()[:, None, None]  # as torch's attention takes it
    mask = torch.zeros((count, 1, beams, steps * beams), dtype=torch.bool, device=device)
    itself = torch.eye(beams, dtype=torch.bool, device=device).expand(count, 1, beams, beams)
    columns, number = torch.arange(beams, device=device), torch.zeros((), dtype=torch.long, device=device)
    size, end, start = model.config.vocab_size, tokenizer.eos_token_id, model.config.decoder_start_token_id
    schemas = [row["schema"] for row in rows]
    search = Search([Hypotheses() for _ in rows], schemas, beams, steps, steps, size, end, device, grammars)

    def forward() -> torch.Tensor:
        mask.copy_(torch.take_along_dim(mask, search.parent[:, None, :, None], 2))
        mask.index_copy_(3, columns, itself)
        # not model(...): DeepSpeed's hook waits for the GPU at each call, which a graph cannot
        asked = dict(decoder_input_ids=search.token, decoder_attention_mask=mask)
        logits = model.forward(attention_mask=prompt_mask, **asked, **how).logits
        columns.add_(beams)
        number.add_(1)
        return logits

    attention = model.decoder.block[0].layer[0].SelfAttention
    bias = attention.compute_bias

    def of_steps(*lengths, device: torch.device, **past) -> torch.Tensor:
        one = bias(1, steps, device=device, past_seen_tokens=number)  # all beams of a step have one position: its number
        return one.repeat_interleave(beams, 3).expand(-1, -1, beams, -1).contiguous()

    attention.compute_bias = of_steps
    try:
        return search.run(None, forward, True, start)
    finally:
        attention.compute_bias = bias


@torch.compiler.set_stance("force_eager")  # what --compile made is for training
def evaluate(
    model, tokenizer, benchmark: Benchmark, dev: Dataset, args: Args, accelerator: Accelerator, stop: Stop,
    grammars: Grammars | None = None,
):  # fmt: skip
    """Predict and score examples of --split -> rows of predictions.jsonl, and totals with seconds, the same on every rank.

    The rows are None where a signal cut it short.
    """
    model.eval()
    start = time.perf_counter()
    answers = generate(accelerator.unwrap_model(model), tokenizer, dev, benchmark.schemas, args, accelerator, stop, grammars)
    seconds = time.perf_counter() - start
    examples = [benchmark.splits[args.split][i] for i in dev["index"]]
    rows = None
    if accelerator.is_main_process and answers is not None:
        rows = scored(benchmark, args.split, answers, examples, progress=sys.stderr.isatty(), seconds=args.seconds)
    # a launcher that stops a run stops the processes that score, too: what they said then does not count
    (rows,) = broadcast_object_list([None if stop.requested else rows])
    model.train()
    speed = dict(eval_seconds=seconds, eval_examples_per_second=len(examples) / seconds)
    return rows, {} if rows is None else totals(rows) | speed


def ask(args: Args) -> None:
    """Answer --ask, its file's questions, or those that are typed. Raises UserError where nothing is trained."""
    base = base_of(asdict(args), SCRIPT)
    # what is wrong with the database is said before a model is loaded
    talk, stop = conversation(asdict(args), base), Stop()
    if (base["tiny"] or base["random_weights"]) and not checkpoint_of(args.model):
        raise UserError("random weights know no answers: train first, or name a run with --model")
    config, tokenizer = load_config(base), load_tokenizer(args)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="bf16" if torch.cuda.is_available() else "no")
    grammars = grammars_for(base, args.constrained, tokenizer, config.vocab_size)
    model = load_model(args, base, config, tokenizer, accelerator.device).eval()

    def answer(rows: dict, schemas: dict[str, Schema]) -> list[list[dict]] | None:
        names = rows["db_id"]
        rows = encode(rows, schemas, tokenizer, args.max_input_tokens)
        asked = Dataset.from_dict(rows | dict(db_id=names))
        return generate(model, tokenizer, asked, schemas, args, accelerator, stop, grammars)

    talk.go(answer, stop)


# -------------------------------------------------------------------------------------------------------- checkpoint


def save(accelerator: Accelerator, model, tokenizer, folder: Path, base: dict, state: dict, resumable: bool) -> None:
    """Save model in bf16, tokenizer and, where `resumable`, the optimiser aside, and put them in the place of `folder`."""
    aside = folder.with_name(folder.name + ".tmp")
    with room_for(aside):
        if accelerator.is_main_process:
            shutil.rmtree(aside, ignore_errors=True)
            module = accelerator.unwrap_model(model)
            weights = {name: weight.detach().to("cpu", torch.bfloat16) for name, weight in module.named_parameters()}
            skeleton(module.config, torch.bfloat16).save_pretrained(aside, state_dict=weights)
            tokenizer.save_pretrained(aside)
        accelerator.wait_for_everyone()
        if resumable:
            accelerator.save_state(str(aside / "resume"))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            record = dict(script=SCRIPT, base=base, state=state, ranks=accelerator.num_processes, zero2=is_zero2(accelerator))
            seal(aside, record)
            replace_folder(aside, folder)
    accelerator.wait_for_everyone()


def load(accelerator: Accelerator, model, folder: Path) -> dict:
    """Restore weights, optimiser and random states from `folder` -> the state of the loop."""
    record = read_object(folder / "checkpoint.json", "there is nothing to resume: start without --resume")
    if record["zero2"] != is_zero2(accelerator):
        how = "under the deepspeed launcher" if record["zero2"] else "without DeepSpeed"
        raise UserError(f"{folder} was saved {how}: resume it so, or start from its weights with --model {folder}")
    if is_zero2(accelerator) and record["ranks"] != accelerator.num_processes:
        load_universal(accelerator, model, folder)
    else:
        accelerator.load_state(str(folder / "resume"))
    return record["state"]


def is_zero2(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def load_universal(accelerator: Accelerator, model, folder: Path) -> None:
    """Restore ZeRO-2's weights and optimiser on another number of ranks than saved them: DeepSpeed's universal checkpoint."""
    universal = folder.with_name("universal")
    if accelerator.is_main_process:
        shutil.rmtree(universal, ignore_errors=True)
        paths = ["--input_folder", folder / "resume" / "pytorch_model", "--output_folder", universal / "pytorch_model"]
        # the model has no record of what is split between GPUs, as nothing is but the optimiser's flat tensors: inject one
        words = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state", *paths]
        subprocess.run(words, check=True)
    accelerator.wait_for_everyone()
    model._config.load_universal_checkpoint = True
    model.load_checkpoint(str(universal), "pytorch_model")
    model._config.load_universal_checkpoint = False
    for weight, moments in model.optimizer.optimizer.state.items():
        moments["step"] = torch.as_tensor(moments["step"]).to(weight.device)  # where the fused AdamW wants it
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(universal)


# ---------------------------------------------------------------------------------------------------------- training


def learning_rate(args: Args, update: int, total: int) -> float:
    """Linear warm-up, then linear decay to 0."""
    warmup = max(1, round(args.warmup * total))
    return args.learning_rate * min((update + 1) / warmup, (total - update) / max(1, total - warmup))


def peak_memory() -> int:
    """The most bytes that this process held: allocated on its GPU, or resident on a CPU."""
    gpu = torch.cuda.is_available()
    return torch.cuda.max_memory_allocated() if gpu else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    args = parse()
    if args.db or args.ask:
        return ask(args)
    # what a user can get wrong is found here, once, before any process or model is started
    base = base_of(asdict(args), SCRIPT)
    benchmark = load_benchmark(asdict(args), base)
    config, tokenizer, zero2 = load_config(base), load_tokenizer(args, benchmark), zero2_config(args)
    grammars = grammars_for(base, args.constrained, tokenizer, config.vocab_size)

    gpu = torch.cuda.is_available()
    tracker = {} if args.report_to == "none" else dict(log_with=args.report_to, project_dir=args.out)
    how = dict(mixed_precision="bf16" if gpu else "no", **tracker)
    if zero2:
        how |= dict(deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=zero2))
        # without it, each rank on a CPU would take itself for the only one
        how |= {} if gpu else dict(kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")])
    accelerator = Accelerator(**how)
    ranks, device = accelerator.num_processes, accelerator.device
    gpus = gather_object([torch.cuda.get_device_name() if gpu else "cpu"])
    folder = RunFolder(args.out, SCRIPT, accelerator.is_main_process, track=accelerator.log)
    folder.start(asdict(args), benchmark.summary(), gpus, args.resume)
    accelerator.init_trackers(SCRIPT, asdict(args))

    with accelerator.main_process_first():
        data = TrainingData(benchmark, asdict(args), encode, tokenizer, apart=True)
    train, dev, total = data.train, data.dev, data.updates
    folder.health(0, *data.health("]", collate))

    set_seed(args.seed)  # the same weights on every rank
    model = load_model(args, base, config, tokenizer, device)
    counts, (prompt_flops, answer_flops) = count_parameters(model), flops_per_token(model)
    accelerator.print(f"{counts['trainable_parameters']:,} of {counts['parameters']:,} parameters train | {ranks} x {gpus[0]}")
    if gpu and ranks == 1 and not zero2 and torch.cuda.device_count() > 1:
        print(f"{torch.cuda.device_count() - 1} more GPUs are visible: deepspeed {SCRIPT}.py uses them")
    layers = [*model.encoder.block, *model.decoder.block]
    for layer in layers if compiles(args.compile, gpu, args.max_updates, args.eval_only) else ():
        layer.compile(dynamic=True)  # once for all layers of a kind, and for batches of any shape
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    collate_train = partial(collate, pad=tokenizer.pad_token_id)

    def gradient(examples: list[int]) -> None:
        batch = {name: tensor.to(device) for name, tensor in collate_train([train[i] for i in examples]).items()}
        try:
            with accelerator.autocast():
                answer_loss(model, batch).backward()
        finally:
            model.zero_grad()

    # beside the measured pass, whose weights and gradients are float32: an optimiser's state, of ZeRO-2 this rank's share,
    # with weights and gradients in bf16 and the buckets that these travel in
    state_bytes = 12 / ranks - 4 if zero2 else 8 * (args.optimizer == "adamw")
    kept = max(0, int(state_bytes * counts["parameters"])) + (2 * 2**30 if gpu else 0)
    room = forward_tokens(data, args.gradient_checkpointing, accelerator, layers, gradient, kept)
    adafactor = partial(Adafactor, scale_parameter=False, relative_step=False, warmup_init=False)
    adamw = partial(torch.optim.AdamW, fused=True, weight_decay=0.0)
    chosen = DummyOptim if zero2 and "optimizer" in zero2 else adamw if zero2 or args.optimizer == "adamw" else adafactor
    model, optimizer = accelerator.prepare(model.train(), chosen(trainable, lr=args.learning_rate))
    set_seed(args.seed, device_specific=True)  # dropout differs

    state = dict(update=0, evaluated=-1, best=-1.0, train_seconds=0.0, train_tokens=0, train_flops=0.0, examples_seen=0)
    if args.resume:
        recover(folder.path / "last")
        state = load(accelerator, model, folder.path / "last")
        folder.rewind(state)
    start, stopping, stop = state["update"], False, Stop()
    keeping = args.save_every >= 0 and not args.eval_only
    plan = data.passes(ranks, room, start)
    mine = [each[accelerator.process_index] for passes in plan for each in passes]
    loader = iter(DataLoader(train, batch_sampler=mine, collate_fn=collate_train))
    model.train()
    stop.listen()

    for update in range(start, total + 1):
        last = update == total
        # once in a while, and at the end: evaluate, and keep the best
        due = last or (args.eval_every and update % args.eval_every == 0 and update > state["evaluated"])
        if due and not stopping:
            rows, figures = evaluate(model, tokenizer, benchmark, dev, args, accelerator, stop, grammars)
            stopping = rows is None
        if due and not stopping:
            state["evaluated"] = update
            folder.log_evaluation(update, total, rows, figures)
            if figures["execution_accuracy"] > state["best"] and keeping:
                state["best"] = figures["execution_accuracy"]
                save(accelerator, model, tokenizer, folder.path / "best", base, state, resumable=False)
        # once in a while, at the end, and where a signal asks to stop: save
        now = last or stopping or (args.save_every > 0 and update % args.save_every == 0 and update > start)
        if now and keeping:
            save(accelerator, model, tokenizer, folder.path / "last", base, state, resumable=True)
        if stopping:
            stop.leave(update, f"{folder.path}/last" if keeping else None)
        if last:
            break

        # ---- one update
        began = time.perf_counter()
        passes = plan[update - start]
        prompt_tokens, answer_tokens = data.tokens(passes)
        rate = learning_rate(args, update, total)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss_sum = torch.zeros((), device=device)
        for number in range(len(passes)):
            batch = {name: tensor.to(device) for name, tensor in next(loader).items()}
            accelerator.sync_gradients = number + 1 == len(passes)
            with nullcontext() if accelerator.sync_gradients else accelerator.no_sync(model):
                loss = answer_loss(model, batch)
                # each answer token of the update counts the same; ranks are averaged
                accelerator.backward(loss * (ranks / answer_tokens))
            loss_sum += loss.detach()
        accelerator.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        # all ranks stop where one has a signal
        sums = torch.stack([loss_sum, torch.tensor(float(stop.requested), device=device)])
        loss, stopping = accelerator.reduce(sums).tolist()
        loss /= answer_tokens
        seconds = time.perf_counter() - began
        # ----
        folder.check_loss(loss, update, rate, keeping)
        if update == 0 and not checkpoint_of(args.model):
            folder.health(0, *first_loss(loss, config.vocab_size, not (base["tiny"] or base["random_weights"])))
        flops = prompt_flops * prompt_tokens + answer_flops * answer_tokens
        record = dict(loss=loss, learning_rate=rate, seconds=seconds, tokens=prompt_tokens + answer_tokens)
        state = folder.log_update(state, total, data.per_update, flops, **record, memory_gib=peak_memory() / 2**30)

    memory = max(gather_object([peak_memory()]))
    method = f"full, {'ZeRO-2' if zero2 else args.optimizer}"
    folder.finish(rows, base["model"], method, counts, gpus, memory, state, figures, benchmark, args.relative_to)
    if args.overfit and not args.eval_only:
        accelerator.print(learned(sum(row["execution_match"] for row in rows), len(rows), loss))
    accelerator.wait_for_everyone()  # or a thread of gloo may free a tensor after Python has ended, and abort
    accelerator.end_training()


if __name__ == "__main__":
    exit_on_user_error(main)
