"""Where torch computes: devices are named once, checked, and never replaced in silence."""

from __future__ import annotations

import importlib.util
import re
import resource
import sys
from pathlib import Path
from typing import Final

from fintune_xr.errors import DeviceError, FintuneValueError, MissingPackageError

AUTO = "auto"
CPU = "cpu"
TPU = "tpu"
# NVIDIA's driver, that of AMD, and Windows' below Linux.
_NODES: Final = ("nvidia[0-9]*", "kfd", "dxg")
_CUDA = re.compile(r"cuda(?::(\d+))?")


def resolve_device(name: str) -> str:
    """`cpu`, `tpu` or `cuda:N`: what `name` stands for on this machine.

    `auto` is the first CUDA device where there is one, else `cpu`: resolve it once and record the answer.

    Raises DeviceError for a device that this machine lacks, MissingPackageError for a TPU without torch-xla,
    FintuneValueError for what is no device.
    """
    if name == CPU:
        return CPU
    if name == TPU:
        return _tpu()
    matched = _CUDA.fullmatch(name)
    if name != AUTO and matched is None:
        raise FintuneValueError(f"no device {name!r}; write cpu, cuda, cuda:N, tpu or auto")
    available = _cuda_count()
    if name == AUTO:
        return "cuda:0" if available else CPU
    index = int(matched.group(1) or 0) if matched else 0
    if index >= available:
        raise DeviceError(
            f"device {name!r} was asked for, but torch sees {available} CUDA device(s) on this machine. "
            "Run where there is a GPU (check nvidia-smi and CUDA_VISIBLE_DEVICES), or ask for device=cpu."
        )
    return f"cuda:{index}"


def cuda_names() -> list[str]:
    """Names of the GPUs that torch can use here."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(_cuda_count())]


def start_measuring(device: str) -> None:
    """Forgets the peak of GPU memory so far; there is nothing to forget on the CPU."""
    import torch

    if _is_cuda(device):
        torch.cuda.reset_peak_memory_stats(device)


def finish(device: str) -> None:
    """Waits until `device` has done all that it was given, so that a clock can be read."""
    import torch

    if _is_cuda(device):
        torch.cuda.synchronize(device)


def peak_memory(device: str) -> int:
    """Most bytes in use: of the GPU since `start_measuring`; on the CPU, of the process since its start."""
    import torch

    if _is_cuda(device):
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def use_threads(n_threads: int) -> None:
    """Lets torch use `n_threads` CPU threads in this process; 0 leaves its own choice."""
    import torch

    if n_threads > 0:
        torch.set_num_threads(n_threads)


def _has_gpu_node() -> bool:
    """Whether a GPU of NVIDIA or AMD may be here, by what Linux shows of drivers; True where that cannot be known."""
    if not sys.platform.startswith("linux"):
        return True
    return any(next(Path("/dev").glob(node), None) is not None for node in _NODES)


def _is_cuda(device: str) -> bool:
    return _CUDA.fullmatch(device) is not None


def _tpu() -> str:
    if importlib.util.find_spec("torch_xla") is None:
        raise MissingPackageError(
            "device 'tpu' needs torch-xla of the same version as torch, which is not installed here. Nothing of this "
            "package has been run on a TPU."
        )
    return TPU


def _cuda_count() -> int:
    # Importing torch takes longer than small runs of models without it; where there is no node of a GPU, it sees none.
    if "torch" not in sys.modules and not _has_gpu_node():
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
