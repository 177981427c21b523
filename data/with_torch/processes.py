"""The processes of a run, one a GPU, and what each holds."""

import os
import resource
import sys
import time
from datetime import timedelta

import torch
import torch.distributed.run
from accelerate import Accelerator, InitProcessGroupKwargs
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from data.common.errors import UserError
from data.common.output import SAID
from data.run.signals import for_launcher

REST = 0.2  # seconds
WAIT = timedelta(hours=6)


def launch(processes: int) -> None:
    """Run this script in so many processes (0: one a visible GPU) and exit with their code; return where one will do."""
    gpus = torch.cuda.device_count()
    processes = processes or max(1, gpus)
    if "LOCAL_RANK" in os.environ or processes == 1:
        return
    if gpus and processes > gpus:
        raise UserError(f"--processes {processes} is out of range: each needs a GPU of its own, and {gpus} are visible")
    os.environ[SAID] = "yes"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    for_launcher()
    try:
        torch.distributed.run.main(["--standalone", f"--nproc_per_node={processes}", *sys.argv])
    except ChildFailedError as error:  # a rank has said why
        sys.exit(max(1, *(failure.exitcode for failure in error.failures.values())))
    except SignalException as error:  # the ranks have had it, too
        sys.exit(128 + error.sigval)
    sys.exit(0)


def process_group(backend: str = "nccl") -> dict:
    """What Accelerator needs for the processes of a run: while one tokenises or scores, the others wait for longer than the
    10 minutes that NCCL gives them. Where a process ends, the launcher ends the others."""
    return dict(kwargs_handlers=[InitProcessGroupKwargs(backend=backend, timeout=WAIT)])


def end(accelerator: Accelerator) -> None:
    """End the trackers and the process group of a run, once all ranks and their threads are done."""
    accelerator.wait_for_everyone()
    # gloo's thread frees the tensor of that barrier, for which it needs Python: later, Python may have ended, or wait for it
    time.sleep(REST)
    accelerator.end_training()


def gpu_names(spread: bool = False) -> list[str]:
    """What this process computes on: its GPU, or with `spread` all that are visible, or "cpu"."""
    if not torch.cuda.is_available():
        return ["cpu"]
    gpus = range(torch.cuda.device_count()) if spread else [torch.cuda.current_device()]
    return [torch.cuda.get_device_name(gpu) for gpu in gpus]


def peak_memory() -> int:
    """The most bytes that this process held: allocated on one GPU, or resident on a CPU."""
    if not torch.cuda.is_available():
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count())))
