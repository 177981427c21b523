"""Questions that share a schema as tensors: side by side in packs, none of which sees another's."""

import torch

from data.training.batches import SPAN, shared_packs


def packs_of(rows: list[dict], pad: int, most: int = 0) -> tuple[dict[str, torch.Tensor], list[list[tuple[int, int]]]]:
    """Examples -> input_ids, labels, position_ids and segments, all (packs, width), and where each ends: `shared_packs`."""
    columns, ends = shared_packs(rows, most)
    width = -(-max(map(len, columns["segments"])) // 16) * 16  # CUDA wants masks aligned
    width += 16 * (width % 128 == 64)  # whose gradients can be no numbers: https://github.com/pytorch/pytorch/issues/196678
    fillers = dict(input_ids=pad, labels=-100, position_ids=0, segments=-1)
    return {
        name: torch.tensor([pack + [filler] * (width - len(pack)) for pack in columns[name]])
        for name, filler in fillers.items()
    }, ends


def visible(segments: torch.Tensor) -> torch.Tensor:
    """Segments (packs, longest) -> which position attends to which, (packs, 1, longest, longest): its schema and itself."""
    query, key = segments[:, :, None], segments[:, None, :]
    schema = (query // SPAN == key // SPAN) & (key % SPAN == 0)
    return (schema | (query == key)).tril()[:, None]
