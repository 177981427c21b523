"""DeepSpeed's ZeRO-2: its configuration, and its checkpoints on another number of GPUs."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator, DeepSpeedPlugin, DistributedType

from data.common.errors import UserError
from data.common.files import read_object
from data.with_torch.processes import process_group


def configuration(path: Path, update_examples: int, script: str) -> dict:
    """The DeepSpeed configuration for updates of so many examples, which stand in its `auto`. Raises UserError."""
    try:
        from deepspeed.runtime.config import DeepSpeedConfig  # takes seconds, and the plain path has no use for it
    except ImportError as error:
        raise UserError(f"deepspeed cannot be imported ({error}): install it, or run python3 {script}.py without it") from None
    config = read_object(path, "name a DeepSpeed configuration with --deepspeed FILE, or none with --deepspeed none")
    # an update's forward passes, which tokens decide, are one step to DeepSpeed
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    each = max(1, update_examples // ranks)
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


def plugin(config: dict | None) -> dict:
    """What Accelerator needs for a configuration of DeepSpeed, or for none.

    Raises UserError for a broken DeepSpeed, which transformers imports to save a model, whether or not it has trained it.
    """
    if config is None:
        if importlib.util.find_spec("deepspeed"):
            try:
                importlib.import_module("deepspeed")
            except Exception as error:
                raise UserError(f"deepspeed is installed and cannot be imported ({error}), and the model could not be saved: "
                                "mend or uninstall it") from None  # fmt: skip
        return process_group()
    # without gloo, each rank on a CPU would take itself for the only one
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    return dict(deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=config)) | process_group(backend)


def optimizer(config: dict, otherwise: Callable) -> Callable:
    """What stands for the optimiser that a configuration names, or `otherwise`, which is sharded, too."""
    from accelerate.utils import DummyOptim  # there where DeepSpeed is

    return DummyOptim if "optimizer" in config else otherwise


def is_on(accelerator: Accelerator) -> bool:
    """Whether a run is under DeepSpeed."""
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
