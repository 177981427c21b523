"""Frozen models, whose linear layers are packed into 4 bits or not, and what trains on top of them."""

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import bitsandbytes as bnb
import torch
from accelerate import Accelerator, init_empty_weights
from peft import PeftModel
from peft.tuners.trainable_tokens import TrainableTokensLayer
from transformers import BitsAndBytesConfig, PretrainedConfig
from transformers.integrations import replace_with_bnb_linear

from data.common.errors import UserError
from data.run.checkpoints import FORM, checkpoint_of, replace_folder
from data.with_torch.models import draw_weights, weights_from


def peak_rate(parameters: int) -> float:
    """The learning rate for LoRA on a model of so many weights.

    QLoRA's from 3 B weights on (Dettmers et al., 2023: 2e-4 up to 13 B, 1e-4 for 33 B and 65 B). Below that the best of
    three that were tried on 1.5 B (tests/bench/README.md).
    """
    return next(rate for least, rate in ((30e9, 1e-4), (3e9, 2e-4), (0, 1e-3)) if parameters >= least)


def kind(base: Mapping) -> str:
    """What a run's record calls LoRA on the base of `data.run.checkpoints.base_of`."""
    return "LoRA, not quantised" if base["base_16bit"] else "QLoRA NF4"


def skeleton_of(auto: type, config: PretrainedConfig, how: BitsAndBytesConfig, packed: bool = True) -> torch.nn.Module:
    """The model of a configuration, its linear layers in 4 bits where `packed`, with no memory for weights (meta device)."""
    with init_empty_weights(include_buffers=False):
        model = auto.from_config(config, dtype=how.bnb_4bit_compute_dtype)
    model.tie_weights()  # some versions of transformers leave them apart on the meta device
    return replace_with_bnb_linear(model, ends(model)[1:], how) if packed else model


def ends(model: torch.nn.Module) -> list[str]:
    """The names of the embeddings and of the output layer: versions of transformers differ in them."""
    wanted = [model.get_input_embeddings(), model.get_output_embeddings()]
    paths = {id(module): path for path, module in model.named_modules()}
    return [paths[id(module)].split(".")[-1] for module in wanted]


def linear_layers(model: torch.nn.Module) -> dict[str, bnb.nn.Linear4bit]:
    """The layers in 4 bits, by their paths."""
    return {path: module for path, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)}


def random_base(
    model: torch.nn.Module,
    seed: int,
    device: torch.device,
    how: BitsAndBytesConfig,
    scale: Callable[[str], float] = lambda path: 1,
) -> torch.nn.Module:
    """A skeleton with random weights, drawn (and packed) on `device` one layer at a time; `scale` as `draw_weights` takes it.

    The output layer starts as the embeddings, so that words of the question are easy to copy.
    """
    packing = dict(quant_type=how.bnb_4bit_quant_type, compress_statistics=how.bnb_4bit_use_double_quant)
    packing |= dict(quant_storage=how.bnb_4bit_quant_storage)

    def make(weight: torch.Tensor, module: torch.nn.Module, name: str) -> torch.nn.Parameter:
        if isinstance(module, bnb.nn.Linear4bit) and name == "weight":
            return bnb.nn.Params4bit(weight, requires_grad=False, module=module, **packing).to(device)
        return torch.nn.Parameter(weight, requires_grad=False)

    model = draw_weights(model, seed, device, make, how.bnb_4bit_compute_dtype, scale)
    words = model.get_input_embeddings().weight
    model.get_output_embeddings().weight.data.copy_(words * words.shape[1] ** -0.5)
    model.is_loaded_in_4bit = bool(linear_layers(model))
    return model


def keep_packed(model: torch.nn.Module) -> torch.nn.Module:
    """The model, whose 4-bit weights bitsandbytes now leaves as they are on a CPU.

    It would pack them anew at the first evaluation, and training after it would lose its gradient.
    """
    for layer in linear_layers(model).values():
        layer.support_avx512bf16_for_cpu = False
    return model


def check_stored(config: PretrainedConfig, base: Mapping) -> None:
    """Raise UserError for a model that is stored quantised, unless it is in 4 bits and `base` wants it so."""
    stored = getattr(config, "quantization_config", None)
    if stored and (base["base_16bit"] or not stored.get("load_in_4bit")):
        raise UserError(f"the model {base['model']} is quantised by {stored.get('quant_method')}: name its 16-bit original")


def check_room(model: torch.nn.Module, device: torch.device, spread: bool = False) -> None:
    """Raise UserError where a skeleton's weights alone need more memory than is free on the GPU, or with `spread` on all."""
    if device.type != "cuda":
        return
    gpus = range(torch.cuda.device_count()) if spread else [device]
    free = sum(torch.cuda.mem_get_info(gpu)[0] for gpu in gpus)
    packed = sum(layer.weight.numel() for layer in linear_layers(model).values())
    others = sum(weight.numel() for weight in model.parameters()) - packed
    needed = 2 * others + packed * (1 / 2 + 1 / 64 + 4 / (64 * 256))  # with the scales of blocks, and the scales of scales
    if needed > free:
        if torch.cuda.device_count() > 1:
            remedy = "name more of them in CUDA_VISIBLE_DEVICES" if spread else "--device_map auto spreads it"
        else:
            remedy = "take a larger GPU, or more of them, over which --device_map auto spreads it"
        raise UserError(f"the model takes {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB of GPU memory are free, "
                        f"{(needed - free) / 2**30:.1f} GiB too little: {remedy}")  # fmt: skip


def lora_targets(model: torch.nn.Module, wanted: str) -> str | list[str]:
    """--lora_targets as PEFT takes them. Raises UserError for layers that are not there."""
    linear = {path.split(".")[-1] for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    linear -= set(ends(model))
    targets = wanted if wanted == "all-linear" else [name.strip() for name in wanted.split(",")]
    if targets != "all-linear" and not set(targets) <= linear:
        raise UserError(f"--lora_targets {wanted}: the model has {','.join(sorted(linear))}, or all-linear")
    return targets


def load_adapter(model: torch.nn.Module, checkpoint: Path, is_trainable: bool) -> PeftModel:
    """The model with a checkpoint's adapter. Raises UserError for an adapter of another base."""
    try:
        return PeftModel.from_pretrained(model, checkpoint, is_trainable=is_trainable)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{checkpoint} is no adapter of this model: name the checkpoint of its own base ({reason})") from None


def with_rows_on_device(model: PeftModel) -> PeftModel:
    """The model with the indices of its trained rows of embeddings on its device.

    PEFT copies them there at each call, which takes time, and which no CUDA graph captures.
    """

    def merged(layer: TrainableTokensLayer, rows: torch.Tensor, active: list[str]) -> torch.Tensor:
        weight = layer.get_base_layer().weight
        return weight.index_copy(0, rows, layer.trainable_tokens_delta[active[0]].to(weight))

    for layer in model.modules():
        if isinstance(layer, TrainableTokensLayer):
            (rows,) = layer.token_indices.values()
            layer.get_merged_weights = partial(merged, layer, torch.tensor(rows, device=layer.get_base_layer().weight.device))
    return model


def layers_made_alike(model: PeftModel) -> torch.nn.ModuleList:
    """A decoder's layers, which are compiled alike: the first one's input gets a gradient, too, as the others' does.

    Without one it would be compiled by itself, which takes as long as all others.
    """

    def with_gradient(module: torch.nn.Module, given: tuple, output: torch.Tensor) -> torch.Tensor:
        return output.requires_grad_() if torch.is_grad_enabled() else output

    model.get_input_embeddings().register_forward_hook(with_gradient)
    return model.get_base_model().base_model.layers


def leave_base_out(accelerator: Accelerator) -> None:
    """Keep the frozen base out of checkpoints: its quantised weights could not be loaded back."""
    accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
    accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())


def export(
    options: Mapping,
    base: Mapping,
    config: PretrainedConfig,
    load_tokenizer: Callable[[], object],
    load_base: Callable[[PretrainedConfig, torch.device], torch.nn.Module],
    auto: type,
) -> None:
    """Save the base in 4 bits (--save_4bit), or with the adapter of --model merged into its 16-bit weights (--merge).

    `auto` loads those. Raises UserError.
    """
    folder = Path(options["save_4bit"] or options["merge"])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already: name a new directory")
    checkpoint, made = checkpoint_of(options["model"]), base["tiny"] or base["random_weights"]
    if options["save_4bit"] and base["base_16bit"]:
        raise UserError("--save_4bit keeps a model in 4 bits, and --base_16bit, or the run of --model, has it in 16: name the "
                        "model itself, without --base_16bit")  # fmt: skip
    if options["save_4bit"] and made:
        raise UserError("--save_4bit keeps a model that took long to load: random weights are made anew at each start")
    if options["save_4bit"] and checkpoint:
        merge = "" if hasattr(config, "quantization_config") else ", or keep both in 16 bits with --merge"
        raise UserError(f"--save_4bit keeps a model, and {options['model']} is an adapter for one: name the model{merge}")
    if options["merge"] and (checkpoint is None or made or hasattr(config, "quantization_config")):
        raise UserError("--merge needs a run or checkpoint trained from 16-bit weights: name it with --model")
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:  # what cannot be written is said before a model is loaded
        aside.mkdir(parents=True)
        aside.rmdir()
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}): name another directory") from None
    tokenizer = load_tokenizer()
    if options["save_4bit"]:
        model = load_base(config, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    else:
        model = weights_from(auto, base["model"], config, dtype=torch.bfloat16, device_map="cpu")
        model = load_adapter(model, checkpoint, is_trainable=False).merge_and_unload()
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    replace_folder(aside, folder)
    said = ""
    if options["merge"]:  # a model by itself does not say how it was asked
        form = [flag for flag in FORM if flag != "base_16bit" and flag in options]
        said = "; it was trained with " + " ".join(f"--{'' if base[flag] else 'no-'}{flag}" for flag in form)
        # back-translation is the untrained model's, which this no longer has in it
        said += "; ask it with --no-back_translation" if "back_translation" in options else ""
    print(f"the model now stands in {folder}{said}")
