"""What is installed and what it runs on, as text: `python -m fused_rnn`, for a first look and for reports of faults."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

import torch

from fused_rnn._explain import build_info

_CPU_INFO = Path("/proc/cpuinfo")


def describe() -> dict[str, str]:
    """Text by name: what `build_info` says, and the machine."""
    info = build_info()
    settings = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("FUSED_RNN_"))
    return {
        "fused_rnn": f"{info.pop('version')}, in {Path(__file__).resolve().parent}",
        "Python": f"{platform.python_version()}, {platform.platform()}",
        "torch": f"{info.pop('torch')}, CUDA {torch.version.cuda or 'not built'}",
        "compiler": info.pop("compiler"),
        "processor": f"{_processor()}, {os.cpu_count()} logical cores, {torch.get_num_threads()} threads of torch",
        "instruction sets": f"{info.pop('instruction_sets')}; in use: {info.pop('active_instruction_set')}",
        "CUDA kernels": info.pop("cuda"),
        "visible GPUs": _gpus(),
        "settings": ", ".join(settings) or "none",
        **info,
    }


def _processor() -> str:
    lines = _CPU_INFO.read_text().splitlines() if _CPU_INFO.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _gpus() -> str:
    """Those that torch sees, with what `fused_rnn.CudaDevice` is made of."""
    found = []
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        memory = gpu.total_memory / 2**30
        found.append(
            f"{gpu.name} ({gpu.major}.{gpu.minor}, {gpu.multi_processor_count} multiprocessors, {memory:.0f} GiB)"
        )
    return ", ".join(found) or "none"


def main() -> None:
    """Print the description; an unknown FUSED_RNN_CPU_ISA is one line on stderr."""
    argparse.ArgumentParser(
        prog="python -m fused_rnn", description="Print what is installed and what it runs on."
    ).parse_args()
    try:
        text = describe()
    except ValueError as error:
        sys.exit(f"error: {error}")
    width = max(map(len, text))
    for name, value in text.items():
        print(f"{name:{width}}  {value}")


if __name__ == "__main__":
    main()
