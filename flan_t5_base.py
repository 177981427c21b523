"""Fine-tune google/flan-t5-base on Spider with 4-bit QLoRA, and score it by running the SQL it writes.

    python3 flan_t5_base.py --tiny                  no GPU: a small random model on the embedded sample, a few minutes
    python3 flan_t5_base.py                         every visible GPU, one 4-bit replica each, on data/spider
    python3 flan_t5_base.py --random_weights        the real size, nothing downloaded: does it fit, how fast is it
    python3 flan_t5_base.py --resume                goes on from the last checkpoint in runs/flan_t5_base
    python3 flan_t5_base.py --eval_only --model runs/flan_t5_base        scores the best checkpoint of a run
    python3 flan_t5_base.py --ask "How many?" --db FILE   SQL and result; without --ask, questions are typed
    python3 flan_t5_base.py --ask questions.csv           the same for each question, into questions.answers.jsonl

A run leaves runs/flan_t5_base: report.html, curves.png, result.json, predictions.jsonl, log.jsonl, best/ and last/.
"""

import shutil
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import tyro

from data.common.errors import exit_on_user_error
from data.run.ask import drop_bare_ask
from data.run.options import defaults, resolve_options

SCRIPT = Path(__file__).stem

# ----------------------------------------------------------------------------------------------------------- options


@dataclass
class Args:
    model: str = "google/flan-t5-base"  # hub id, a model's directory, or a run folder or checkpoint of this script
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
    processes: int = 0  # one a GPU; 0: every visible GPU, or one process on the CPU
    epochs: int = 10  # passes over the training examples
    max_updates: int = 0  # stop after so many optimiser steps; 0: when the epochs are over
    update_examples: int = 128  # examples an update, over all GPUs
    batch_tokens: int = 0  # tokens a GPU and forward pass, padding included; 0: as many as fit
    batch_size: int = 0  # examples a GPU and forward pass at most; 0: as many as fit
    eval_batch_size: int = 128  # examples a GPU that are answered together; fewer where they do not fit
    learning_rate: float = 3e-4  # peak
    warmup: float = 0.03  # share of the updates; then linear decay to 0
    max_input_tokens: int = 1024  # longer prompts lose schema that the question does not name: 14 % of Spider's
    max_output_tokens: int = 256  # Spider's longest SQL has 250 T5 tokens
    constrained: bool = True  # answers name only what their database has, and parse: with --plain_sql or --full_names
    num_beams: int = 4  # candidates, which are run: those with equal results vote together; 1: greedy, and faster
    lora_rank: int = 350  # 148 M weights, the published table's 50 % of the stored ones
    lora_alpha: int = 350  # equal to the rank: LoRA's update is not scaled down
    lora_dropout: float = 0.05  # on the input of the LoRA layers
    lora_targets: str = "all-linear"  # or names of layers, comma between; the feed-forward layers: wi_0,wi_1,wo
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
    seed: int = 0  # of random weights, dropout and the order of examples


# what --tiny changes: the same code, at a size for two CPU cores and five minutes
TINY = dict(data="sample", vary_schema=0.0, epochs=2, update_examples=16, eval_batch_size=64, learning_rate=3e-3,
            lora_rank=64, lora_alpha=16, lora_dropout=0.0, max_output_tokens=96, num_beams=1)  # fmt: skip
# what --published changes: the published table's sizes, prompt and SQL as they stand in the data
PUBLISHED = dict(plain_sql=False, full_names=False, vary_schema=0.0, values=False, update_examples=36, batch_size=36,
                 eval_batch_size=16, gradient_checkpointing="on", compile="off", num_beams=1)  # fmt: skip


def parse() -> Args:
    """The options. Raises UserError for one that is out of range."""
    default = replace(Args(), **defaults(sys.argv, TINY, PUBLISHED))
    args = tyro.cli(Args, args=drop_bare_ask(sys.argv[1:]), description=__doc__, default=default, use_underscores=True)
    return resolve_options(args, Args, PUBLISHED)


if __name__ == "__main__":
    CALLED = exit_on_user_error(parse)  # --help and a wrong option are answered before the imports below, which take seconds

import bitsandbytes as bnb
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.utils import load_peft_weights
from tokenizers.processors import TemplateProcessing
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from transformers import AutoModelForSeq2SeqLM, BitsAndBytesConfig
from transformers import PreTrainedTokenizerFast as Tokenizer
from transformers import T5Config as Config
from transformers.cache_utils import DynamicCache, EncoderDecoderCache, StaticCache
from transformers.models.t5.modeling_t5 import T5PreTrainedModel

from data.answers.candidates import scored
from data.answers.constrained import Grammars, grammars_for
from data.answers.score import totals
from data.benchmark.prompt import fit, prompt, target
from data.benchmark.schema import Benchmark, Schema
from data.run.ask import conversation
from data.run.checkpoints import base_of, checkpoint_of, record_of, replace_folder, room_for, seal
from data.run.run_folder import START, RunFolder
from data.run.signals import Stop
from data.training.health import first_loss, learned
from data.training.small_tokenizer import word_tokenizer
from data.training.training_data import TrainingData, load_benchmark
from data.with_torch import quantised
from data.with_torch.answering import Questions
from data.with_torch.memory import compile_layers, compiles, forward_tokens
from data.with_torch.models import check_vocabulary, config_of, count_parameters, numel, tokenizer_of
from data.with_torch.processes import end, gpu_names, launch, peak_memory, process_group
from data.with_torch.search import Answers, Search, none_left
from data.with_torch.t5 import add_pieces, contiguous_biases

# ------------------------------------------------------------------------------------------------------------ tokens

MISSING = "<{}\\^~`"  # characters of SQL that T5's vocabulary lacks: it would write `age <= 30` as `age = 30`
PIECES = [space + character for character in MISSING for space in ("", "▁")]  # within a word, and at its start


def load_tokenizer(args: Args, benchmark: Benchmark | None = None) -> Tokenizer:
    """The tokenizer of --model, or one made from the benchmark, with the pieces that T5 lacks."""
    return add_pieces(tokenizer_of(asdict(args), partial(small_tokenizer, benchmark)), PIECES)


def small_tokenizer(benchmark: Benchmark) -> Tokenizer:
    """A tokenizer of T5's kind with the same gaps, made on the spot."""
    tokenizer = word_tokenizer(benchmark, special=["<pad>", "</s>", "<unk>"], lacking=MISSING)
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return Tokenizer(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def encode(rows: dict, schemas: dict[str, Schema], tokenizer: Tokenizer, limit: int) -> dict:
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

# google/flan-t5-base; its output layer is a matrix of its own
CONFIG = dict(vocab_size=32128, d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_heads=12, dropout_rate=0.1,
              feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0)  # fmt: skip
TINY_CONFIG = CONFIG | dict(vocab_size=2048, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, dropout_rate=0.0)


def load_config(base: dict) -> Config:
    """The architecture. Raises UserError where this script does not train it, or this machine cannot."""
    return config_of(base, AutoModelForSeq2SeqLM, Config, TINY_CONFIG if base["tiny"] else CONFIG, SCRIPT)


def quantization() -> BitsAndBytesConfig:
    """NF4 with double quantisation, bf16 compute on a GPU and float32 on a CPU, where that is faster."""
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    # T5 casts activations to the type that its `wo` is stored in: packed into bytes it would round them to whole numbers
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=dtype, bnb_4bit_quant_storage=dtype)  # fmt: skip


def skeleton(config: Config) -> torch.nn.Module:
    """The model with its linear layers in 4 bits and no memory for its weights (meta device)."""
    model = quantised.skeleton_of(AutoModelForSeq2SeqLM, config, quantization())
    if not config.scale_decoder_outputs:  # T5 1.1 and Flan: transformers ties the output layer where no checkpoint unties it
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    return model


def random_model(config: Config, seed: int, device: torch.device) -> torch.nn.Module:
    """The 4-bit model with random weights."""
    scale = dict(scale=lambda path: config.d_kv**-0.5 if path.endswith(".q") else 1.0)  # T5 does not scale attention scores
    return quantised.random_base(skeleton(config), seed, device, quantization(), **scale)


def load_model(args: Args, base: dict, config: Config, tokenizer: Tokenizer, device: torch.device) -> PeftModel:
    """The 4-bit base with its LoRA, new or from the checkpoint that --model names."""
    if base["tiny"] or base["random_weights"]:
        model = random_model(config, base["seed"], device)
    else:
        T5PreTrainedModel._keep_in_fp32_modules = None  # `wo` in 4 bits too: it was kept out of them for fp16's sake
        how = dict(quantization_config=quantization(), dtype=quantization().bnb_4bit_compute_dtype, device_map={"": device})
        model = quantised.weights_from(AutoModelForSeq2SeqLM, base["model"], config, **how)
    check_vocabulary(model, tokenizer, base["model"])
    contiguous_biases(quantised.keep_packed(model))
    # else PEFT takes the two for one, and leaves out the rows of the output layer
    model.config.tie_word_embeddings = model.lm_head.weight is model.get_input_embeddings().weight
    checkpoint = checkpoint_of(args.model)
    model = quantised.load_adapter(model, checkpoint, True) if checkpoint else add_lora(model, args, tokenizer)
    return quantised.with_rows_on_device(model)


def add_lora(model: torch.nn.Module, args: Args, tokenizer: Tokenizer) -> PeftModel:
    """LoRA on --lora_targets, and the rows of the pieces that T5 lacked. Raises UserError for targets that are not there."""
    rows, alike = tokenizer.convert_tokens_to_ids(PIECES), tokenizer.convert_tokens_to_ids([">", "▁>"])
    for matrix in (model.get_input_embeddings().weight, model.lm_head.weight):
        matrix.data[rows] = matrix.data[alike].repeat(len(MISSING), 1)  # a better start than rows that nothing has trained
    if args.tiny:
        rows = list(range(len(tokenizer)))  # here nothing has trained any row
    return get_peft_model(model, LoraConfig(
        task_type="SEQ_2_SEQ_LM", r=args.lora_rank, lora_alpha=args.lora_alpha, lora_dropout=args.lora_dropout,
        target_modules=quantised.lora_targets(model, args.lora_targets),
        trainable_token_indices=dict.fromkeys(["embed_tokens", "lm_head"], rows),
    ))  # fmt: skip


def answer_loss(model, **batch: torch.Tensor) -> torch.Tensor:
    """The summed cross-entropy of a batch's answer tokens, float32."""
    return model(**batch, use_cache=False).loss.float() * (batch["labels"] != -100).sum()


def flops_per_token(model: PeftModel) -> tuple[int, int]:
    """Training FLOPs of a prompt token and of an answer token: 4 a weight that it passes, as the base gets no gradient."""
    base = model.get_base_model()
    return 4 * numel(base.encoder.block), 4 * numel(base.decoder.block, base.lm_head)


# -------------------------------------------------------------------------------------------------------- evaluation


# without cuDNN's attention, the first choice on an H100: to the same single query it now and then gives another result
@sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
@torch.inference_mode()
def generate(
    model, tokenizer, examples: Dataset, schemas: dict[str, Schema], args: Args, accelerator: Accelerator, stop: Stop,
    grammars: Grammars | None = None,
) -> list[list[dict]] | None:  # fmt: skip
    """Up to --num_beams answers to each example, likeliest first, held to `grammars`; None once a signal asks to stop."""
    questions = Questions(examples, schemas, asdict(args), accelerator, stop)
    while rows := questions.batch():
        with questions.fewer(), accelerator.autocast():
            questions.take(write(model.get_base_model(), rows, args, tokenizer, grammars, accelerator.device, questions.enough))
    return questions.answers(tokenizer)


def write(
    model, rows: list[dict], args: Args, tokenizer, grammars: Grammars | None, device: torch.device, enough=none_left
) -> list[Answers | None]:
    """Up to --num_beams answers to each example; None where it is to be asked again (`enough`).

    The beams of an example stand side by side as one sequence of its decoder, so that they share what the encoder made of its
    prompt; each attends to its own tokens. Keys and values have all their places from the beginning.
    """
    batch = collate([row | dict(labels=[]) for row in rows], tokenizer.pad_token_id)
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
    search = Search(rows, beams, steps, size, end, device, grammars)

    def forward() -> torch.Tensor:
        mask.copy_(torch.take_along_dim(mask, search.parent[:, None, :, None], 2))
        mask.index_copy_(3, columns, itself)
        asked = dict(decoder_input_ids=search.token, decoder_attention_mask=mask)
        logits = model(attention_mask=prompt_mask, **asked, **how).logits
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
        return search.run(None, forward, True, start, enough=enough)
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
    answers = generate(model, tokenizer, dev, benchmark.schemas, args, accelerator, stop, grammars)
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
    talk, stop = conversation(asdict(args), base), Stop()  # what is wrong with the database is said before a model is loaded
    config, tokenizer = load_config(base), load_tokenizer(args)
    gpu = torch.cuda.is_available()
    accelerator = Accelerator(cpu=not gpu, mixed_precision="bf16" if gpu else "no")
    grammars = grammars_for(base, args.constrained, tokenizer, config.vocab_size)
    model = load_model(args, base, config, tokenizer, accelerator.device).eval()

    def answer(rows: dict, schemas: dict[str, Schema]) -> list[list[dict]] | None:
        tokens = encode(rows, schemas, tokenizer, args.max_input_tokens)
        examples = Dataset.from_dict(tokens | dict(db_id=rows["db_id"]))
        return generate(model, tokenizer, examples, schemas, args, accelerator, stop, grammars)

    talk.go(answer, stop)


# -------------------------------------------------------------------------------------------------------- checkpoint


def save(accelerator: Accelerator, model, tokenizer, folder: Path, base: dict, state: dict, resumable: bool) -> None:
    """Save adapter, tokenizer and, where `resumable`, the optimiser beside `folder`, and put them in its place at once."""
    aside = folder.with_name(folder.name + ".tmp")
    with room_for(aside):
        if accelerator.is_main_process:
            shutil.rmtree(aside, ignore_errors=True)
            model.save_pretrained(aside, save_embedding_layers=False)
            tokenizer.save_pretrained(aside)
        accelerator.wait_for_everyone()
        if resumable:
            accelerator.save_state(str(aside / "resume"))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            seal(aside, dict(script=SCRIPT, base=base, state=state))
            replace_folder(aside, folder)
    accelerator.wait_for_everyone()


def load(accelerator: Accelerator, model, folder: Path) -> dict:
    """Restore adapter, optimiser and random states from `folder` -> the state of the loop."""
    set_peft_model_state_dict(model, load_peft_weights(folder, device="cpu"))
    accelerator.load_state(str(folder / "resume"))
    return record_of(folder)["state"]


# ---------------------------------------------------------------------------------------------------------- training


def learning_rate(args: Args, update: int, total: int) -> float:
    """Linear warm-up, then linear decay to 0."""
    warmup = max(1, round(args.warmup * total))
    return args.learning_rate * min((update + 1) / warmup, (total - update) / max(1, total - warmup))


def main(args: Args | None = None) -> None:
    """Do what the options, or else the command line, say; what a user can get wrong is found before anything starts."""
    args = args or parse()
    if args.db or args.ask:
        return ask(args)
    base = base_of(asdict(args), SCRIPT)
    benchmark = load_benchmark(asdict(args), base)
    config, tokenizer = load_config(base), load_tokenizer(args, benchmark)
    grammars = grammars_for(base, args.constrained, tokenizer, config.vocab_size)
    RunFolder(args.out, SCRIPT).check(asdict(args), benchmark.summary(), args.resume)
    launch(args.processes)
    train(args, base, benchmark, config, tokenizer, grammars)


def train(args: Args, base: dict, benchmark: Benchmark, config, tokenizer: Tokenizer, grammars: Grammars | None) -> None:
    """One run: training, its evaluations and its checkpoints."""
    gpu = torch.cuda.is_available()
    tracker = {} if args.report_to == "none" else dict(log_with=args.report_to, project_dir=args.out)
    # without `cpu`, each process on a machine with no GPU would take itself for the only one
    accelerator = Accelerator(cpu=not gpu, mixed_precision="bf16" if gpu else "no", **process_group(), **tracker)
    rank, ranks, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    folder = RunFolder(args.out, SCRIPT, accelerator.is_main_process, track=accelerator.log)
    gpus = gather_object(gpu_names())
    folder.prepare(asdict(args), benchmark.summary(), gpus, args.resume)
    with accelerator.local_main_process_first():  # hosts may have caches of their own
        data = TrainingData(benchmark, asdict(args), encode, tokenizer, padded=True)
    data.check(ranks)
    folder.health(0, *data.health("]", collate, bool(grammars)))

    set_seed(args.seed)  # the same adapter on every rank
    model = load_model(args, base, config, tokenizer, device)
    counts, flops = count_parameters(model), flops_per_token(model)
    folder.counted(counts)
    stacks = model.get_base_model()
    layers = [*stacks.encoder.block, *stacks.decoder.block]
    if compiles(args.compile, gpu, args.max_updates, args.eval_only):
        compile_layers(layers)
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    collator, loss = partial(collate, pad=tokenizer.pad_token_id), partial(answer_loss, model)
    # moments in 8 bits, and where there are several ranks, the buckets that gradients travel in
    kept = (2 + 4 * (ranks > 1)) * counts["trainable_parameters"]
    max_tokens = forward_tokens(data, args.gradient_checkpointing, accelerator, layers, trainable, loss, collator, kept)
    adamw = bnb.optim.PagedAdamW8bit if gpu else partial(torch.optim.AdamW, fused=True)
    wrapped, optimizer = accelerator.prepare(model.train(), adamw(trainable, lr=args.learning_rate, weight_decay=0.0))
    set_seed(args.seed, device_specific=True)  # dropout differs
    quantised.leave_base_out(accelerator)

    state = folder.start(load(accelerator, model, folder.path / "last") if args.resume else dict(START), data.updates)
    accelerator.init_trackers(SCRIPT, asdict(args))
    start, total, stopping, stop = state["update"], data.updates, False, Stop().listen()
    keeping = args.save_every >= 0 and not args.eval_only
    plan = data.passes(ranks, max_tokens, start)
    sampler = [each[rank] for passes in plan for each in passes]  # its seed must not come from torch's, which --resume restored
    loader = iter(DataLoader(data.train, batch_sampler=sampler, collate_fn=collator, generator=torch.Generator()))
    for update in range(start, total + 1):
        last = update == total
        # once in a while, at the end, and where a signal asks to stop: save, before an evaluation that may fail
        saving = keeping and (last or stopping or args.save_every and update % args.save_every == 0 and update > start)
        if saving:
            save(accelerator, model, tokenizer, folder.path / "last", base, state, resumable=True)
        # once in a while, and at the end: evaluate, and keep the best
        if not stopping and (last or args.eval_every and update % args.eval_every == 0 and update > state["evaluated"]):
            rows, figures = evaluate(model, tokenizer, benchmark, data.dev, args, accelerator, stop, grammars)
            stopping = rows is None
            if not stopping and folder.log_evaluation(state, total, rows, figures) and keeping:
                save(accelerator, model, tokenizer, folder.path / "best", base, state, resumable=False)
            if saving:
                folder.keep(state)
            elif stopping and keeping:
                save(accelerator, model, tokenizer, folder.path / "last", base, state, resumable=True)
        if stopping:
            stop.leave(update, f"{folder.path}/last" if keeping else None)
        if last:
            break
        began, passes, rate = time.perf_counter(), plan[update - start], learning_rate(args, update, total)
        tokens, batches = data.tokens(passes), [next(loader) for _ in passes]
        loss_sum, norm = optimise(accelerator, wrapped, optimizer, batches, tokens[1], rate)
        # all ranks stop where one has a signal
        loss, norm, stopping = accelerator.reduce(torch.stack([loss_sum, norm, loss_sum.new_tensor(stop.requested)])).tolist()
        loss, seconds = loss / tokens[1], time.perf_counter() - began
        folder.check_finite(loss, norm, update, rate)
        if update == 0 and not checkpoint_of(args.model):
            folder.health(0, *first_loss(loss, config.vocab_size, not (base["tiny"] or base["random_weights"])))
        record = dict(loss=loss, learning_rate=rate, seconds=seconds, memory_gib=peak_memory() / 2**30)
        state = folder.log_update(state, total, data.per_update, tokens, flops, **record)
    memory = max(gather_object([peak_memory()]))
    folder.finish(rows, base["model"], "QLoRA NF4", counts, gpus, memory, state, figures, benchmark)
    if args.overfit and not args.eval_only:
        accelerator.print(learned(sum(row["execution_match"] for row in rows), len(rows), loss, data.outside))
    end(accelerator)


def optimise(accelerator: Accelerator, model, optimizer, batches: list[dict], answer_tokens: int, rate: float):
    """One update by the forward passes `batches` -> this rank's summed loss, the gradient's norm; answer tokens count alike."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss_sum = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(batches, 1):
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        accelerator.sync_gradients = number == len(batches)
        with nullcontext() if accelerator.sync_gradients else accelerator.no_sync(model):
            loss = answer_loss(model, **batch)
            accelerator.backward(loss * (accelerator.num_processes / answer_tokens))  # ranks are averaged
        loss_sum += loss.detach()
    norm = accelerator.clip_grad_norm_([weight for group in optimizer.param_groups for weight in group["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss_sum, torch.as_tensor(norm).to(loss_sum)


if __name__ == "__main__":
    exit_on_user_error(partial(main, CALLED))
