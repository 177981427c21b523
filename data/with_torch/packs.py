"""Questions that share a schema as tensors: side by side in packs, none of which sees another's."""

from collections.abc import Callable

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask
from transformers import AttentionInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from data.training.batches import SPAN, shared_packs


def packs_of(
    rows: list[dict], pad: int, most: int = 0, one_row: bool = False
) -> tuple[dict[str, torch.Tensor], list[list[tuple[int, int]]]]:
    """Examples -> input_ids, labels, position_ids and segments, all (packs, width), and where each ends: `shared_packs`."""
    columns, ends = shared_packs(rows, most, one_row)
    width = -(-max(map(len, columns["segments"])) // 16) * 16  # CUDA wants masks aligned
    width = max(width, 128 * one_row)  # shorter ones get a kernel for decoding, which lacks sizes for grouped heads
    width += 16 * (width % 128 == 64)  # whose gradients can be no numbers: https://github.com/pytorch/pytorch/issues/196678
    fillers = dict(input_ids=pad, labels=-100, position_ids=0, segments=-1)
    return {
        name: torch.tensor([pack + [filler] * (width - len(pack)) for pack in columns[name]])
        for name, filler in fillers.items()
    }, ends


def _sees(segments: torch.Tensor) -> Callable[..., torch.Tensor]:
    """Segments (packs, longest) -> whether a position attends to another, as torch's masks ask: its schema and itself."""
    segments = segments.int()
    schema = segments - segments % SPAN

    def sees(pack, head, query, key):
        own = (segments[pack, key] == segments[pack, query]) | (segments[pack, key] == schema[pack, query])
        return own & (key <= query)

    return sees


def visible(segments: torch.Tensor) -> torch.Tensor:
    """Segments (packs, longest) -> which position attends to which, (packs, 1, longest, longest)."""
    packs, longest = segments.shape
    return create_mask(_sees(segments), packs, 1, longest, longest, segments.device)


def mask_of(segments: torch.Tensor, dtype: torch.dtype, blocks: bool = False) -> torch.Tensor | BlockMask:
    """What is `visible`, for the layers of a model of transformers: added to scores of `dtype`, or in `blocks`.

    Compiled, attention leaves out the blocks of 128 x 128 positions that hold nothing visible; to find them takes 10 bytes for
    each pair of positions, for a moment. Layers that are not compiled would compute all scores.
    """
    if blocks:
        packs, longest = segments.shape
        return create_block_mask(_sees(segments), packs, None, longest, longest, segments.device)
    # additive: each layer would convert a boolean mask anew, and keep the result
    return torch.where(visible(segments), 0.0, -torch.inf).to(dtype)


def attention(module: torch.nn.Module, query, key, value, attention_mask: torch.Tensor | BlockMask | None, **how: object):
    """Attention as transformers' layers call it, with a mask of either kind."""
    forward = flex_attention_forward if isinstance(attention_mask, BlockMask) else sdpa_attention_forward
    return forward(module, query, key, value, attention_mask, **how)


# under this name no model needs another configuration, and other masks go where they went
AttentionInterface.register("sdpa", attention)
