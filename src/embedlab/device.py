"""The device of tensors, the precision that it computes in, and its free memory."""

import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import psutil
import torch

from embedlab.errors import OptionError

CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # instruction sets of x86 and of Arm


def choose_device(name: str) -> str:
    """Resolve `auto` to cuda if available, else cpu. Raises OptionError if cuda is missing."""
    has_cuda = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if has_cuda else "cpu"
    if name == "cuda" and not has_cuda:
        raise OptionError(
            "device: expected a CUDA device, but torch finds none here: use device=cpu"
        )
    return name


def choose_precision(name: str, device: str) -> str:
    """Resolve `auto`: bfloat16 if the processor has it, float16 on older GPUs, else float32.

    Weights, their updates and all sums stay float32; only the layers' products lose precision.
    Raises OptionError for float16 on a CPU.
    """
    on_gpu = device.startswith("cuda")
    if name == "float16" and not on_gpu:
        raise OptionError(
            "precision: float16 needs a GPU: take float32 or bfloat16 on the CPU; a training in "
            "float16 can be resumed on a GPU only"
        )
    if name != "auto":
        return name
    if on_gpu:
        return "bfloat16" if torch.cuda.is_bf16_supported(False) else "float16"
    capabilities = torch.cpu.get_capabilities()
    return "bfloat16" if any(map(capabilities.get, CPU_BFLOAT16)) else "float32"


def can_compile() -> bool:
    """Whether torch.compile finds the tools that it builds CUDA kernels with."""
    compilers = filter(None, (os.environ.get("CC"), "gcc", "clang"))
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return bool(find_spec("triton")) and any(map(shutil.which, compilers)) and headers.is_file()


def free_bytes(device: str) -> int:
    """Free memory of `device`, in bytes, including what torch keeps for its next tensors."""
    if device.startswith("cuda"):
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return psutil.virtual_memory().available
