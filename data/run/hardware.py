"""What a machine has for a run: a C compiler, GPUs' peak throughput, and the share of it that is used."""

import os
import re
import shutil
from collections.abc import Sequence

# dense bf16 FLOP/s with float32 accumulation, from NVIDIA's data sheets; longer names before their prefixes
PEAK_FLOPS = {
    "RTX A6000": 154.8e12,
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989.4e12,
    "H200 NVL": 835e12,
    "H200": 989.4e12,
    "GeForce RTX 4090": 165.2e12,
    "L40S": 362e12,
}


def c_compiler() -> bool:
    """Whether torch.compile finds a C compiler here."""
    return any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang")))


def peak_flops(gpu: str) -> float | None:
    """Dense bf16 FLOP/s of a GPU by the name that CUDA gives it; None where it is not in the table."""
    if re.search(r"\b(Laptop|MIG|4090 D)\b", gpu):  # slower than their names suggest
        return None
    names = (name for name in PEAK_FLOPS if re.search(rf"\b{re.escape(name)}\b", gpu))
    return next((PEAK_FLOPS[name] for name in names), None)


def utilisation(flops: float, seconds: float, gpus: Sequence[str]) -> float | None:
    """`flops` operations in `seconds` as a share of the GPUs' peak; None where a GPU's peak is unknown."""
    peaks = [peak_flops(gpu) for gpu in gpus]
    return flops / seconds / sum(peaks) if seconds and peaks and all(peaks) else None
