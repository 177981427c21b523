"""What T5's architecture needs to be fast and to write SQL."""

import json
from collections.abc import Callable, Sequence
from functools import partial

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast


def add_pieces(tokenizer: PreTrainedTokenizerFast, pieces: Sequence[str]) -> PreTrainedTokenizerFast:
    """The tokenizer with pieces in its vocabulary itself: after an added token, T5's decoder would write a space."""
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = spec["model"]["vocab"]
    known, lowest = {piece for piece, _ in vocabulary}, min(score for _, score in vocabulary)
    vocabulary += [[piece, lowest] for piece in pieces if piece not in known]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(spec))
    return tokenizer


def contiguous_biases(model: torch.nn.Module) -> None:
    """Make the model's position biases in the form that attention needs: contiguous, and in autocast's type.

    transformers makes them in float32, with the heads of a position side by side. Each layer adds every example's mask to them,
    and would then have to convert a tensor as large as the scores, forward and backward.
    """

    def contiguous(compute: Callable[..., torch.Tensor], *lengths, **how) -> torch.Tensor:
        bias = compute(*lengths, **how)
        kind = bias.device.type
        return bias.to(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else bias.dtype).contiguous()

    for stack in (model.encoder, model.decoder):
        attention = stack.block[0].layer[0].SelfAttention
        attention.compute_bias = partial(contiguous, attention.compute_bias)
