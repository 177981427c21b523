"""Fine-tune LLaMA-65B on Spider with 4-bit QLoRA, and score it by running the SQL it writes.

    python3 llama_65b.py --tiny                        no GPU: a small random model on the embedded sample, a few minutes
    CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 python3 llama_65b.py                one process a visible GPU, a 4-bit replica in each
    python3 llama_65b.py --random_weights              the real size, nothing downloaded: does it fit, how fast is it
    python3 llama_65b.py --resume                      goes on from the last checkpoint in runs/llama_65b
    python3 llama_65b.py --eval_only --model runs/llama_65b                  scores the best checkpoint of a run
    python3 llama_65b.py --ask "How many?" --db FILE      SQL and result; without --ask, questions are typed
    python3 llama_65b.py --ask questions.csv              the same for each question, into questions.answers.jsonl
    python3 llama_65b.py --save_4bit DIR               quantises once: --model DIR then loads 35 GB, not 130
    python3 llama_65b.py --model runs/llama_65b --merge DIR                  a 16-bit model with the adapter in its weights

A run leaves runs/llama_65b: report.html, curves.png, result.json, predictions.jsonl, log.jsonl, best/ and last/.
"""

import os
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
    model: str = "huggyllama/llama-65b"  # hub id, a model's directory, or a run folder or checkpoint of this script
    tiny: bool = False  # a small random model on the sample, for a machine with no GPU; other defaults: TINY below
    random_weights: bool = False  # the real size from its configuration, nothing downloaded
    data: str = "data/spider"  # a directory in Spider's layout, or `sample`
    train_others: bool = False  # train on train_others.json too
    published: bool = False  # the published table's recipe: other defaults, PUBLISHED below
    plain_sql: bool = True  # learn SQL in one spelling: names as in the schema, no T1 and T2
    full_names: bool = True  # as --plain_sql, and columns as table.column in prompt and SQL; a run keeps its choice
    vary_schema: float = 0.4  # up to this share of what its questions do not need is left out of a schema, anew each epoch
    values: bool = True  # cells of the database that the question mentions stand in its prompt; a run keeps its choice
    share_schema: bool = True  # schema first, once for the questions beside it: a quarter of the tokens; a run keeps its choice
    overfit: int = 0  # learn so many examples, 32 say, in 300 updates, and answer them: can this pipeline learn at all?
    out: str = f"runs/{SCRIPT}"  # the run folder; an earlier run there moves aside
    processes: int = 0  # one a GPU; 0: every visible GPU, or one process on the CPU
    device_map: Literal["replica", "auto"] = "replica"  # a replica a GPU; auto: one, spread over the GPUs, which take turns
    epochs: int = 10  # passes over the training examples
    max_updates: int = 0  # stop after so many optimiser steps; 0: when the epochs are over
    update_examples: int = 128  # examples an update, over all GPUs
    batch_tokens: int = 0  # tokens a GPU and forward pass; 0: as many as fit
    batch_size: int = 0  # examples a GPU and forward pass at most; 0: as many as fit
    eval_batch_size: int = 128  # examples a GPU that are answered together; fewer where they do not fit
    learning_rate: float = 0.0  # peak; 0: 1e-4 from 30 B weights on, 2e-4 from 3 B on, else 1e-3
    warmup: float = 0.03  # share of the updates; then linear decay to 0
    max_input_tokens: int = 1792  # longer prompts lose schema that the question does not name: 2 % of Spider's
    max_output_tokens: int = 256  # with the prompt, the model's 2,048 positions
    constrained: bool = True  # answers name only what their database has, and parse: with --plain_sql or --full_names
    num_beams: int = 4  # candidates, which are run: those with equal results vote together; 1: greedy, and faster
    back_translation: bool = True  # of candidates the untrained model says how likely their SQL makes the question
    base_16bit: bool = False  # LoRA on the base in bf16 (on a CPU float32), not in 4 bits; a run keeps its choice
    lora_rank: int = 16  # on all layers more is not better in large models (Dettmers et al., 2023); one of 135 M gains by 64
    lora_alpha: int = 16  # QLoRA's
    lora_dropout: float = 0.0  # on the input of the LoRA layers; more than 0 takes memory
    lora_targets: str = "all-linear"  # or names of layers, comma between; the MLP: gate_proj,up_proj,down_proj
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"  # recompute activations: less memory, a third slower
    compile: Literal["auto", "on", "off"] = "auto"  # compile the layers: faster after a minute or two; needs a C compiler
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
    save_4bit: str = ""  # quantise --model, save it in this directory and stop
    merge: str = ""  # merge the adapter of --model into its 16-bit base, save it in this directory and stop
    seed: int = 0  # of random weights, dropout and the order of examples


# what --tiny changes: the same code, for two CPU cores and five minutes; its schemas are too few tokens to be worth sharing
TINY = dict(data="sample", share_schema=False, vary_schema=0.0, epochs=3, update_examples=16, eval_batch_size=64,
            learning_rate=3e-3, lora_rank=64, max_output_tokens=96, num_beams=1, back_translation=False)  # fmt: skip
# what --published changes: the published table's sizes and reach of LoRA, and the prompt and SQL as they stand in the data
PUBLISHED = dict(plain_sql=False, full_names=False, vary_schema=0.0, values=False, share_schema=False, batch_size=4,
                 eval_batch_size=24, lora_rank=8, lora_alpha=32, lora_dropout=0.05, lora_targets="q_proj,v_proj",
                 gradient_checkpointing="on", compile="off", num_beams=1, learning_rate=1e-4)  # fmt: skip


def parse() -> Args:
    """The options. Raises UserError for one that is out of range."""
    default = replace(Args(), **defaults(sys.argv, TINY, PUBLISHED))
    args = tyro.cli(Args, args=drop_bare_ask(sys.argv[1:]), description=__doc__, default=default, use_underscores=True)
    return resolve_options(args, Args, PUBLISHED)


if __name__ == "__main__":
    CALLED = exit_on_user_error(parse)  # --help and a wrong option are answered before the imports below, which take seconds

# batches of many sizes would leave gaps of gigabytes in a GPU's memory; the second is the variable's older name; it is read
# when CUDA starts, which importing bitsandbytes does
os.environ.setdefault("PYTORCH_ALLOC_CONF", os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"))

import bitsandbytes as bnb
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.utils import load_peft_weights
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PretrainedConfig, StaticCache
from transformers import LlamaConfig as Config
from transformers import PreTrainedTokenizerFast as Tokenizer

from data.answers.candidates import scored
from data.answers.constrained import Grammars, grammars_for
from data.answers.score import totals
from data.benchmark.prompt import CUE, fit, question_first, schema_first, target
from data.benchmark.schema import Benchmark, Schema
from data.common.errors import UserError
from data.run.ask import conversation
from data.run.checkpoints import base_of, checkpoint_of, record_of, replace_folder, room_for, seal
from data.run.run_folder import START, RunFolder
from data.run.signals import Stop
from data.training.health import first_loss, learned
from data.training.small_tokenizer import word_tokenizer
from data.training.training_data import TrainingData, load_benchmark
from data.with_torch import quantised
from data.with_torch.answering import Questions
from data.with_torch.back_translation import back_translate
from data.with_torch.memory import compile_layers, compiles, forward_tokens, in_blocks
from data.with_torch.models import check_vocabulary, config_of, count_parameters, fit_positions, numel, tokenizer_of
from data.with_torch.packs import mask_of, packs_of, visible
from data.with_torch.processes import end, gpu_names, launch, peak_memory, process_group
from data.with_torch.search import SLOTS, Answers, CacheAtOnce, Columns, Search, none_left

# ------------------------------------------------------------------------------------------------------------ tokens


def load_tokenizer(args: Args, benchmark: Benchmark | None = None) -> Tokenizer:
    """The tokenizer of --model, or one made from the benchmark. Raises UserError for one without an end of sequence."""
    tokenizer = tokenizer_of(asdict(args), partial(small_tokenizer, benchmark))
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {args.model} has no end-of-sequence token, and answers would not end: name another")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked by length, whatever its id
    return tokenizer


def small_tokenizer(benchmark: Benchmark) -> Tokenizer:
    """A tokenizer of LLaMA's kind, made on the spot: it begins a text with <s>, and has no token for padding."""
    tokenizer = word_tokenizer(benchmark, special=["<s>", "</s>", "<unk>"], first="<s>")
    return Tokenizer(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def encode(rows: dict, schemas: dict[str, Schema], tokenizer: Tokenizer, limit: int, share: bool = False) -> dict:
    """Examples -> input_ids (prompt, cue) of at most `limit` tokens, labels (SQL, end), and whether schema was left out.

    `shared` says how many of the input_ids are the schema that other questions `share`.
    """
    form = schema_first if share else question_first
    triples = zip(rows["question"], rows["db_id"], rows["values"])
    asked = [(question, schemas[db_id], values) for question, db_id, values in triples]

    def tokens(parts: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        firsts = list({first: None for first, _ in parts})  # a schema once for those that share it
        known = dict(zip(firsts, tokenizer(firsts).input_ids))
        seconds = tokenizer([second + CUE for _, second in parts], add_special_tokens=False).input_ids
        return [(known[first], second) for (first, _), second in zip(parts, seconds)]

    inputs = tokens([form(*each) for each in asked])
    shortened = [sum(map(len, pair)) > limit for pair in inputs]
    for i in [i for i, long in enumerate(shortened) if long]:
        parts, _ = fit(*asked[i], limit, lambda parts: sum(map(len, tokens([parts])[0])), form)
        inputs[i] = tokens([parts])[0]
    # read behind the cue, since a word's first token depends on what stands before it
    cue = len(tokenizer(CUE, add_special_tokens=False).input_ids)
    answers = tokenizer([f"{CUE} {target(sql)}" for sql in rows["sql"]], add_special_tokens=False).input_ids
    return dict(input_ids=[first + second for first, second in inputs], shared=[share * len(first) for first, _ in inputs],
                labels=[ids[cue:] + [tokenizer.eos_token_id] for ids in answers], shortened=shortened)  # fmt: skip


def collate(rows: list[dict], pad: int, one_row: bool = False) -> dict[str, torch.Tensor]:
    """Examples -> input_ids (prompt, cue, SQL, end), labels (`shared_packs`: -100 but on SQL and end), positions, segments."""
    return packs_of(rows, pad, one_row=one_row)[0]


# ------------------------------------------------------------------------------------------------------------- model

# huggyllama/llama-65b
CONFIG = dict(vocab_size=32000, hidden_size=8192, intermediate_size=22016, num_hidden_layers=80, num_attention_heads=64,
              max_position_embeddings=2048, rms_norm_eps=1e-5)  # fmt: skip
ALIKE = ("mistral", "qwen2", "qwen3")  # types of models whose layers have LLaMA's parts, and biases or norms beside them
TINY_CONFIG = CONFIG | dict(vocab_size=2048, hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4)


def load_config(args: Args, base: dict) -> PretrainedConfig:
    """The architecture. Raises UserError where this script does not train it, or this machine cannot."""
    config = config_of(base, AutoModelForCausalLM, Config, TINY_CONFIG if base["tiny"] else CONFIG, SCRIPT, ALIKE)
    fit_positions(config, asdict(args))
    quantised.check_stored(config, base)
    return config


def quantization() -> BitsAndBytesConfig:
    """NF4 with double quantisation, bf16 compute on a GPU and float32 on a CPU, where that is faster."""
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=dtype)  # fmt: skip


def load_base(args: Args, base: dict, config: PretrainedConfig, device: torch.device) -> torch.nn.Module:
    """The frozen model, in 4 bits or 16. Raises UserError where it does not fit the memory."""
    packed = not base["base_16bit"]
    skeleton = quantised.skeleton_of(AutoModelForCausalLM, config, quantization(), packed)
    quantised.check_room(skeleton, device, spread=args.device_map == "auto")
    quantised.lora_targets(skeleton, args.lora_targets)  # what is wrong with them is said before weights are read
    if base["tiny"] or base["random_weights"]:
        model = quantised.random_base(skeleton, base["seed"], device, quantization())
    else:
        places = "auto" if args.device_map == "auto" else {"": device}
        how = dict(dtype=quantization().bnb_4bit_compute_dtype, device_map=places)
        if stored := getattr(config, "quantization_config", None):
            stored["bnb_4bit_compute_dtype"] = how["dtype"]  # this machine's, not that of the one that saved it
        elif packed:
            how["quantization_config"] = quantization()  # shard by shard, each weight straight into 4 bits
        model = quantised.weights_from(AutoModelForCausalLM, base["model"], config, **how)
    return quantised.keep_packed(model)


def load_model(args: Args, base: dict, config: PretrainedConfig, tokenizer: Tokenizer, device: torch.device) -> PeftModel:
    """The frozen base with its LoRA, new or from the checkpoint that --model names."""
    model = load_base(args, base, config, device)
    check_vocabulary(model, tokenizer, base["model"])
    checkpoint = checkpoint_of(args.model)
    model = quantised.load_adapter(model, checkpoint, True) if checkpoint else add_lora(model, args, tokenizer)
    return quantised.with_rows_on_device(model)


def add_lora(model: torch.nn.Module, args: Args, tokenizer: Tokenizer) -> PeftModel:
    """LoRA on --lora_targets. Raises UserError for targets that are not there."""
    # in a small random model nothing has trained the embeddings and the output layer
    rows = dict.fromkeys(quantised.ends(model), list(range(len(tokenizer)))) if args.tiny else None
    return get_peft_model(model, LoraConfig(
        task_type="CAUSAL_LM", r=args.lora_rank, lora_alpha=args.lora_alpha, lora_dropout=args.lora_dropout,
        target_modules=quantised.lora_targets(model, args.lora_targets), trainable_token_indices=rows,
    ))  # fmt: skip


class AnswerLoss(torch.nn.Module):
    """The cross-entropy of a batch's answer tokens, float32, summed or each; only their hidden states meet the output layer.

    `blocks`: attention leaves out what it may not see (`mask_of`).
    """

    def __init__(self, model: PeftModel, blocks: bool = False):
        super().__init__()
        self.model, self.blocks = model, blocks

    def forward(self, labels: torch.Tensor, segments: torch.Tensor, reduction: str = "sum", **inputs: torch.Tensor):
        causal = self.model.get_base_model()
        mask = mask_of(segments, quantization().bnb_4bit_compute_dtype, self.blocks)
        hidden = causal.base_model(**inputs, attention_mask=mask, use_cache=False).last_hidden_state
        following = labels[:, 1:].to(hidden.device)
        answer = following != -100
        logits = causal.get_output_embeddings()(hidden[:, :-1][answer])
        loss = torch.nn.functional.cross_entropy(logits.float(), following[answer].to(logits.device), reduction=reduction)
        return loss.to(labels.device)


def flops_per_token(model: PeftModel) -> tuple[int, int]:
    """Training FLOPs of a prompt token and of an answer token: 4 a weight that it passes, as the base gets no gradient."""
    base = model.get_base_model()
    layers, last = numel(base.base_model.layers), numel(base.get_output_embeddings())
    return 4 * layers, 4 * (layers + last)


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
        with questions.fewer():
            questions.take(write(model, rows, args, tokenizer, grammars, questions.enough))
    answers = questions.answers(tokenizer)
    if answers and args.back_translation and args.num_beams > 1:
        with model.disable_adapter():
            return back_translate(answers, examples["question"], AnswerLoss(model), tokenizer, accelerator, stop)
    return answers


def write(model, rows: list[dict], args: Args, tokenizer, grammars: Grammars | None, enough=none_left) -> list[Answers | None]:
    """Up to --num_beams answers to each example; None where it is to be asked again (`columns`, `enough`).

    Examples stand in packs as in training, so that a schema is read, and its keys and values are kept, once. Each step adds
    a token to every beam of every example, which attends to what the token before it attends to, and to itself.
    """
    causal, beams, steps = model.get_base_model(), args.num_beams, args.max_output_tokens
    device, head = causal.get_input_embeddings().weight.device, causal.get_output_embeddings()
    batch, ends = packs_of([row | dict(labels=[]) for row in rows], tokenizer.pad_token_id, max(1, SLOTS // beams))
    packs, longest = batch["input_ids"].shape  # `ends` has each pack's examples, with the index of their last token
    width = max(map(len, ends))  # examples a pack; a slot is a beam of one of them
    slots, count = width * beams, packs * width
    shares = [[rows[i]["columns"] for i, _ in pack] for pack in ends]
    size = min(max(map(sum, shares)), steps * slots)  # of a pack's answers, in tokens
    whole = args.device_map == "replica"  # on one device
    cache = (CacheAtOnce if whole else StaticCache)(config=causal.config, max_cache_len=longest + size)
    how = dict(past_key_values=cache, use_cache=True)
    mask = torch.nn.functional.pad(visible(batch["segments"]).to(device), (0, size))  # (packs, 1, longest, longest + size)
    positions = batch["position_ids"].to(device)
    hidden = causal.base_model(batch["input_ids"].to(device), attention_mask=mask, position_ids=positions, **how)
    last = [[place for _, place in pack] + [0] * (width - len(pack)) for pack in ends]
    places = torch.tensor(last, device=device).repeat_interleave(beams, 1)  # (packs, slots)
    logits = head(torch.take_along_dim(hidden.last_hidden_state.to(device), places[:, :, None], 1)).to(device)
    positions = positions.gather(1, places) + 1
    columns = Columns(cache, torch.take_along_dim(mask, places[:, None, :, None], 2), longest, shares, beams)
    asked = [rows[pack[place][0]] if place < len(pack) else None for pack in ends for place in range(width)]
    search = Search(asked, beams, steps, logits.shape[-1], tokenizer.eos_token_id, device, grammars)

    def forward() -> torch.Tensor:
        token, mask = search.token.view(packs, slots), columns.attended(search.parent)
        hidden = causal.base_model(token, attention_mask=mask, position_ids=positions, **how).last_hidden_state
        positions.add_(1)
        return head(hidden).view(count, beams, -1).to(device)  # (packs * width, beams, vocabulary)

    found = search.run(logits.view(count, beams, -1), forward, whole, 0, columns.make_room, enough)
    answers = {row: found[pack * width + place] for pack, each in enumerate(ends) for place, (row, _) in enumerate(each)}
    return [answers[row] for row in range(len(rows))]


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
    config, tokenizer = load_config(args, base), load_tokenizer(args)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    grammars = grammars_for(base, args.constrained, tokenizer, config.vocab_size)
    model = load_model(args, base, config, tokenizer, accelerator.device).eval()

    def answer(rows: dict, schemas: dict[str, Schema]) -> list[list[dict]] | None:
        tokens = encode(rows, schemas, tokenizer, args.max_input_tokens, base["share_schema"])
        examples = Dataset.from_dict(tokens | dict(db_id=rows["db_id"], question=rows["question"]))
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
    if args.save_4bit or args.merge:
        loaders = partial(load_tokenizer, args), partial(load_base, args, base)
        return quantised.export(asdict(args), base, load_config(args, base), *loaders, AutoModelForCausalLM)
    benchmark = load_benchmark(asdict(args), base)
    config, tokenizer = load_config(args, base), load_tokenizer(args, benchmark)
    grammars = grammars_for(base, args.constrained, tokenizer, config.vocab_size)
    RunFolder(args.out, SCRIPT).check(asdict(args), benchmark.summary(), args.resume)
    launch(1 if args.device_map == "auto" else args.processes)
    train(args, base, benchmark, config, tokenizer, grammars)


def train(args: Args, base: dict, benchmark: Benchmark, config, tokenizer: Tokenizer, grammars: Grammars | None) -> None:
    """One run: training, its evaluations and its checkpoints."""
    gpu = torch.cuda.is_available()
    compiled = compiles(args.compile, gpu, args.max_updates, args.eval_only)
    tracker = {} if args.report_to == "none" else dict(log_with=args.report_to, project_dir=args.out)
    # autocast where layers are compiled: elsewhere its casts take longer than LoRA's float32 weights in TF32
    accelerator = Accelerator(cpu=not gpu, mixed_precision="bf16" if gpu and compiled else "no", **process_group(), **tracker)
    torch.set_float32_matmul_precision("high")
    rank, ranks, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    blocks = in_blocks(compiled, args.device_map, config, accelerator)  # then a forward pass is one row
    folder = RunFolder(args.out, SCRIPT, accelerator.is_main_process, track=accelerator.log)
    gpus = gather_object(gpu_names(args.device_map == "auto"))
    folder.prepare(asdict(args), benchmark.summary(), gpus, args.resume)
    with accelerator.local_main_process_first():  # hosts may have caches of their own
        data = TrainingData(benchmark, asdict(args), encode, tokenizer, one_row=blocks, share=base["share_schema"])
    data.check(ranks)
    folder.health(0, *data.health(CUE.strip(), collate, bool(grammars), joined=True))

    set_seed(args.seed)  # the same adapter on every rank
    model = load_model(args, base, config, tokenizer, device)
    counts, flops = count_parameters(model), flops_per_token(model)
    args.learning_rate = args.learning_rate or quantised.peak_rate(counts["parameters"])
    folder.counted(counts, args.learning_rate)
    layers = quantised.layers_made_alike(model)
    if compiled:
        compile_layers(layers)
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    answer_loss, collator = AnswerLoss(model, blocks).train(), partial(collate, pad=tokenizer.pad_token_id, one_row=blocks)
    # moments in 8 bits, and where there are several ranks, the buckets that gradients travel in
    kept = (2 + 4 * (ranks > 1)) * counts["trainable_parameters"]
    max_tokens = forward_tokens(data, args.gradient_checkpointing, accelerator, layers, trainable, answer_loss, collator, kept)
    adamw = bnb.optim.PagedAdamW8bit if gpu else partial(torch.optim.AdamW, fused=True)
    optimizer = adamw(trainable, lr=args.learning_rate, weight_decay=0.0)
    answer_loss, optimizer = accelerator.prepare(answer_loss, optimizer, device_placement=[False, True])
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
        loss_sum, norm = optimise(accelerator, answer_loss, optimizer, batches, tokens[1], rate)
        # all ranks stop where one has a signal
        loss, norm, stopping = accelerator.reduce(torch.stack([loss_sum, norm, loss_sum.new_tensor(stop.requested)])).tolist()
        loss, seconds = loss / tokens[1], time.perf_counter() - began
        folder.check_finite(loss, norm, update, rate)
        if update == 0 and not checkpoint_of(args.model):
            folder.health(0, *first_loss(loss, config.vocab_size, not (base["tiny"] or base["random_weights"])))
        record = dict(loss=loss, learning_rate=rate, seconds=seconds, memory_gib=peak_memory() / 2**30)
        state = folder.log_update(state, total, data.per_update, tokens, flops, **record)
    memory = max(gather_object([peak_memory()]))
    folder.finish(rows, base["model"], quantised.kind(base), counts, gpus, memory, state, figures, benchmark)
    if args.overfit and not args.eval_only:
        accelerator.print(learned(sum(row["execution_match"] for row in rows), len(rows), loss, data.outside))
    end(accelerator)


def optimise(accelerator: Accelerator, answer_loss, optimizer, batches: list[dict], answer_tokens: int, rate: float):
    """One update by the forward passes `batches` -> this rank's summed loss, the gradient's norm; answer tokens count alike."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss_sum = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(batches, 1):
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        accelerator.sync_gradients = number == len(batches)
        with nullcontext() if accelerator.sync_gradients else accelerator.no_sync(answer_loss):
            loss = answer_loss(**batch)
            accelerator.backward(loss * (accelerator.num_processes / answer_tokens))  # ranks are averaged
        loss_sum += loss.detach()
    norm = accelerator.clip_grad_norm_([weight for group in optimizer.param_groups for weight in group["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss_sum, torch.as_tensor(norm).to(loss_sum)


if __name__ == "__main__":
    exit_on_user_error(partial(main, CALLED))
