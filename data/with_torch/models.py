"""Models of a hub, of a directory or of random numbers, and what they hold."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from json import JSONDecodeError
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast

from data.common.errors import NO_SPACE, NOT_ALLOWED, UserError, causes
from data.common.output import say
from data.run.checkpoints import checkpoint_of

MAX_CPU_PARAMETERS = 200e6  # a larger model trains for days on a CPU
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")  # files, one of which a tokenizer has


def from_hub(auto: type, source: str | Path):
    """A configuration or tokenizer from a directory or the hub. Raises UserError where it is not to be had."""
    try:
        return auto.from_pretrained(source)
    except Exception as error:  # a directory that is no model's raises many kinds
        remedy = "name a model's directory with --model DIR, or use --tiny or --random_weights"
        raise UserError(f"the model {source} can be neither found nor downloaded: {remedy} ({error})") from None


def weights_from(auto: type, source: str | Path, config: PretrainedConfig, **how: object) -> torch.nn.Module:
    """A model with the weights of a directory or the hub, as `auto.from_pretrained` makes it.

    Raises UserError where they are missing, cut off, not to be downloaded, or others than the configuration's; a GPU's memory
    that is full stays a RuntimeError.
    """
    try:
        how |= dict(config=config, output_loading_info=True, ignore_mismatched_sizes=True)
        model, found = auto.from_pretrained(source, **how)
    except (OSError, SafetensorError, UnpicklingError, EOFError, JSONDecodeError) as error:
        for cause in causes(error):
            if getattr(cause, "errno", None) in (*NO_SPACE, *NOT_ALLOWED):
                raise cause from None
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the weights of {source} cannot be read or downloaded: get them again, whole ({reason})") from None
    check_weights(model, source, auto, config, found)
    return model


def check_weights(model: torch.nn.Module, source: str | Path, auto: type, config: PretrainedConfig, found: Mapping) -> None:
    """Raise UserError where a loaded model's weights are not those of its configuration, `found` as transformers reports it.

    It draws random ones for what is missing, leaves out what is too much, and does not compare the sizes of what it packs.
    """
    with torch.device("meta"):
        expected = dict(auto.from_config(config).named_parameters(remove_duplicate=False))
    weights = dict(model.named_parameters(remove_duplicate=False))
    sizes = {name: getattr(getattr(weight, "quant_state", None), "shape", weight.shape) for name, weight in weights.items()}
    resized = {name for name, *_ in found["mismatched_keys"]}
    resized |= {name for name, size in sizes.items() if name in expected and size != expected[name].shape}
    # some models' files also hold what is no weight; names that differ in a number are those of other layers
    kinds = {re.sub(r"\d+", "#", name) for name in expected if re.search(r"\d", name)}
    more = [name for name in found["unexpected_keys"] if re.sub(r"\d+", "#", name) in kinds]
    faults = {"lack": found["missing_keys"], "have another size of": resized, "also have": more}
    for fault, names in faults.items():
        if names:
            some = min(names) + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")
            raise UserError(f"the weights of {source} do not match its config.json: they {fault} {some}: get both again, from "
                            "one place")  # fmt: skip


def config_of(
    base: Mapping, auto: type, kind: type[PretrainedConfig], sizes: Mapping, script: str, alike: Sequence[str] = ()
) -> PretrainedConfig:
    """The architecture of what is trained; where its weights are random, a `kind` of these `sizes`.

    `base` is that of `data.run.checkpoints.base_of`, `auto` makes a model of a configuration, `alike` are other types of
    models that `script` trains. Raises UserError where it does not train this one, or this machine cannot.
    """
    gpu = torch.cuda.is_available()
    remedy = "use a machine with a GPU, name a small model's directory with --model DIR, or use --tiny"
    if gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(f"{torch.cuda.get_device_name()} does not compute in bf16: use an Ampere GPU or a later one")
    if (Path(base["model"]) / "adapter_config.json").is_file():
        whole = "name a run or checkpoint as it was saved, or a model into which --merge put its adapter"
        raise UserError(f"{base['model']} is an adapter without checkpoint.json, the record of its run: {whole}")
    if base["tiny"] or base["random_weights"]:
        config = kind(**sizes)
    elif gpu or Path(base["model"]).is_dir():
        config = from_hub(AutoConfig, base["model"])
    else:
        raise UserError(f"no GPU is visible for {base['model']}, no directory: {remedy}; --random_weights needs a GPU too")
    if config.model_type not in (types := (kind.model_type, *alike)):
        model = f"the model {base['model']} is of the type {config.model_type}"
        raise UserError(f"{model}: {script}.py trains {', '.join(types)}")
    if not gpu:
        with torch.device("meta"):
            model = auto.from_config(config)
        if sum(weight.numel() for weight in model.parameters()) > MAX_CPU_PARAMETERS:
            raise UserError(f"no GPU is visible, and {base['model']} is too large for a CPU: {remedy}")
    return config


def fit_positions(config: PretrainedConfig, options: Mapping) -> None:
    """Check that prompts and answers of a script's `options` fit a decoder-only model's positions.

    A model with a window of attention that holds them attends to all tokens of a pack: its window would count those of other
    prompts. Raises UserError for too few positions, for a smaller window, and for positions that depend on a text's length, as
    packs hold several texts.
    """
    if options["save_4bit"] or options["merge"]:
        return  # these save the configuration as it is
    names = [f"--{name} {options[name]}" for name in ("max_input_tokens", "max_output_tokens")]
    wanted = options["max_input_tokens"] + options["max_output_tokens"]
    window = getattr(config, "sliding_window", None)
    most = min(config.max_position_embeddings, window or sys.maxsize)
    if wanted > most:
        raise UserError(f"{' and '.join(names)} are more than the model's {most:,} positions: lower them")
    kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
    if kind in ("dynamic", "longrope"):
        raise UserError(f"the model's positions depend on a text's length ({kind}): name a model of another kind")
    if window:
        config.sliding_window = None
    if getattr(config, "layer_types", None):
        config.layer_types = ["full_attention"] * len(config.layer_types)


def tokenizer_of(options: Mapping, small: Callable[[], PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    """The tokenizer of --model; `small()` with --tiny, and with --random_weights where no other is to be had.

    It sets no limit of its own. Raises UserError.
    """
    checkpoint = checkpoint_of(options["model"])
    made, source = options["tiny"] and not checkpoint, Path(checkpoint or options["model"])
    try:
        if not made and source.is_dir() and not any((source / name).exists() for name in VOCABULARIES):
            # some kinds would be made all the same, without a vocabulary
            raise UserError(f"the directory {source} has no tokenizer: put its {VOCABULARIES[0]} there, or its vocabulary")
        tokenizer = small() if made else from_hub(AutoTokenizer, checkpoint or options["model"])
    except UserError:
        if not options["random_weights"]:
            raise
        say("no tokenizer at hand: a small one stands in, and numbers of tokens differ from the real one's")
        tokenizer = small()
    tokenizer.model_max_length = int(1e9)  # the script's options are the limits
    return tokenizer


def check_vocabulary(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Raise UserError where the model lacks embeddings for pieces of the tokenizer."""
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise UserError(f"{name} has fewer embeddings than its tokenizer has pieces: name a whole model")


def draw_weights(
    model: torch.nn.Module,
    seed: int,
    device: torch.device,
    make: Callable[[torch.Tensor, torch.nn.Module, str], torch.nn.Parameter],
    dtype: torch.dtype = torch.float32,
    scale: Callable[[str], float] = lambda path: 1.0,
) -> torch.nn.Module:
    """The model, which has no memory for its weights, with random ones on `device`, made one at a time.

    Matrices are normal, with the deviation that keeps the size of what passes them, times `scale` of their module's path;
    other weights are 1, biases 0. `make(weight, module, name)` gives the parameter; tied ones stay tied.
    """
    generator = torch.Generator(device).manual_seed(seed)
    made: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
    for path, module in model.named_modules():
        for name, empty in list(module.named_parameters(recurse=False)):
            if empty not in made:
                start = torch.zeros if name == "bias" else torch.ones
                weight = start(empty.shape, device=device, dtype=dtype)
                if weight.dim() == 2:
                    std = 1.0 if isinstance(module, torch.nn.Embedding) else weight.shape[1] ** -0.5
                    weight.normal_(0, std * scale(path), generator=generator)
                made[empty] = make(weight, module, name)
            setattr(module, name, made[empty])
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    return model


def numel(*parts: torch.nn.Module | torch.nn.Parameter) -> int:
    """The number of weights, also where they are packed into 4 bits."""
    weights = [weight for part in parts for weight in (part.parameters() if isinstance(part, torch.nn.Module) else [part])]
    states = [getattr(weight, "quant_state", None) for weight in weights]
    return sum(state.shape.numel() if state else weight.numel() for weight, state in zip(weights, states))


def count_parameters(model: torch.nn.Module) -> dict:
    """All and trainable weights, and the trainable share: of all, and with 4-bit weights counted as stored, two a byte."""
    weights = list(model.parameters())
    total, trainable = numel(*weights), numel(*(weight for weight in weights if weight.requires_grad))
    packed = sum(numel(weight) - numel(weight) // 2 for weight in weights if hasattr(weight, "quant_state"))  # 4-bit weights
    return dict(parameters=total, trainable_parameters=trainable, trainable_percent=100 * trainable / total,
                trainable_percent_packed=100 * trainable / (total - packed))  # fmt: skip
