"""What a training run has memory and time for, found out before its first update."""

from collections.abc import Callable, Collection, Sequence
from functools import partial

import torch
import torch.utils.checkpoint
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch._functorch import config as autograd
from transformers import PretrainedConfig

from data.common.errors import UserError
from data.run.hardware import c_compiler
from data.training.training_data import TrainingData
from data.with_torch.search import does_not_fit

CPU_TOKENS = 16_384  # tokens of a forward pass where nothing is measured
MOST = 32_768  # and where memory sets no limit: larger ones are no faster
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the layers, whose activations are recomputed
SPARE = 0.03  # of a GPU's memory, for what lies between tensors
SAFE = 0.92  # of the tokens that fit: passes of as many differ in padding
SHARED_MEMORY = 160 * 1024  # bytes of a block of threads, for kernels of attention
WIDE = 8192  # hidden size from which attention takes too small a share of the time for blocks to pay: LLaMA-65B's
WORTH = 100  # updates, in which compiling, a minute or two, pays for itself


def compiles(choice: str, gpu: bool, max_updates: int, eval_only: bool) -> bool:
    """Whether layers are compiled: as `choice` (auto, on or off) says; auto: on a GPU, unless --max_updates are few."""
    return choice == "on" or choice == "auto" and gpu and c_compiler() and not eval_only and not 0 < max_updates < WORTH


def compile_layers(layers: Sequence[torch.nn.Module]) -> None:
    """Have layers compiled, once for all of a kind and for batches of any shape.

    For their gradients they keep what products and attention result in, and compute norms and activation functions again.
    Torch by itself would also keep what products read, and a training take 1.3 to 1.5 times as much memory.
    """
    autograd.ban_recompute_materialized_backward = autograd.ban_recompute_used_far_apart = False
    for layer in layers:
        layer.compile(dynamic=True)


def in_blocks(compiled: bool, device_map: str, config: PretrainedConfig, accelerator: Accelerator) -> bool:
    """Whether all processes train with attention that leaves out blocks of what a token may not see (`packs.mask_of`).

    It is compiled, for layers on one device, knows no dropout, and takes shared memory: an H100's has been tried, an A100's is
    what torch sizes its kernels for, an A6000's may be too little.
    """
    device = accelerator.device
    able = compiled and device.type == "cuda" and device_map == "replica"
    able = able and not config.attention_dropout and config.hidden_size < WIDE
    able = able and torch.cuda.get_device_properties(device).shared_memory_per_block_optin >= SHARED_MEMORY
    return all(gather_object([able]))  # they would cut updates into passes of their own


def fits(learn: Callable[[], None], kept: int, gpus: Collection[torch.device]) -> bool:
    """Whether these GPUs have memory for `learn`, which computes a gradient, and together for `kept` bytes beside it."""
    held = []
    try:
        for gpu in gpus:
            spare = int(SPARE * torch.cuda.get_device_properties(gpu).total_memory)
            held.append(torch.empty(kept // len(gpus) + spare, dtype=torch.uint8, device=gpu))
        learn()
    except RuntimeError as error:
        if not does_not_fit(error):
            raise
        return False
    finally:
        del held
        torch.cuda.empty_cache()
    return True


def recompute(layers: Sequence[torch.nn.Module], share: float) -> None:
    """Have a share of a model's layers, which transformers can checkpoint, recompute their activations."""
    checkpoint = partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
    for number, layer in enumerate(layers):
        layer.gradient_checkpointing, layer._gradient_checkpointing_func = number < share * len(layers), checkpoint


def forward_tokens(
    data: TrainingData,
    choice: str,
    accelerator: Accelerator,
    layers: Sequence[torch.nn.Module],
    trainable: Sequence[torch.nn.Parameter],
    loss: Callable[..., torch.Tensor],
    collate: Callable[[list[dict]], dict[str, torch.Tensor]],
    kept: int,
) -> int:
    """Tokens of a GPU's forward pass: --batch_tokens, or as many as all GPUs have memory for.

    `choice` is --gradient_checkpointing: with auto, as many `layers` recompute their activations as it takes for the longest
    example to fit. `loss(**batch)` is that of a batch, which `collate` makes of examples; `trainable` gets its gradient.
    `kept`: bytes that a run will need beside it.
    Raises UserError where the longest example does not fit, or --batch_tokens do not.
    """
    longest, ranks, device = max(data.lengths, default=0), accelerator.num_processes, accelerator.device
    given = data.options["batch_tokens"]
    measured = data.updates and device.type == "cuda"
    shares = dict(on=[1.0], off=[0.0]).get(choice) or (SHARES if measured else SHARES[:1])
    recompute(layers, shares[0])
    if not measured:
        return given or CPU_TOKENS

    def passes(tokens: int) -> list[list[int]]:
        epoch = -(-data.questions // data.per_update)
        return [own for update in data.passes(ranks, tokens, 0, epoch) for each in update for own in each]

    def largest(tokens: int) -> int:
        return max(map(data.area, passes(tokens)))

    def all_fit(tokens: int) -> bool:
        # the largest takes most; of padded ones also that of the longest prompt, whose attention takes most
        tried = passes(tokens)
        heaviest = [max(tried, key=data.area)]
        if data.padded:
            heaviest.append(max(tried, key=lambda own: max(data.prompts[i] for i in own)))
        batches = [collate([data.train[i] for i in own]) for own in heaviest]

        def learn() -> None:
            try:
                for batch in batches:
                    with accelerator.autocast():
                        loss(**{name: tensor.to(device) for name, tensor in batch.items()}).backward()
            finally:
                for weight in trainable:
                    weight.grad = None

        return all(gather_object([fits(learn, kept, [*{weight.device for weight in trainable}] or [device])]))

    tokens = given or int(longest / SAFE) + 1
    for share in shares:
        recompute(layers, share)
        if all_fit(tokens):
            break
    else:
        remedy = "lower --max_input_tokens" + (" or --batch_tokens" if given else "")
        remedy += ", leave out --gradient_checkpointing off" if choice == "off" else ""
        remedy += ", or take a larger GPU"
        raise UserError(f"the GPU's memory is too small for a forward pass of {tokens:,} tokens: {remedy}")
    if not given:
        most = max(tokens, largest(MOST))
        while tokens < most and all_fit(min(most, 2 * tokens)):
            tokens = min(most, 2 * tokens)
        for step in (2, 4) if tokens < most else ():
            larger = min(most, tokens + tokens // step)
            tokens = larger if all_fit(larger) else tokens
        tokens = min(largest(tokens), tokens if tokens == most else int(SAFE * tokens))  # no more than what was tried
    accelerator.print(
        f"forward passes of up to {tokens:,} tokens a GPU" + f", {share:.0%} of the layers recomputed" * (share > 0)
    )
    return tokens
