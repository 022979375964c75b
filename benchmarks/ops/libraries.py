"""Other libraries that find nearest vectors; each is optional (`pip install '.[bench]'`), none has a backward pass.

Each is given operands in the layout it likes best, made outside the timing, and returns the smallest squared distances
(B, P) or, where it only says which patch is nearest, that patch.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from benchmarks.commit import ROOT

KEOPS_CACHE = ROOT / "build" / "keops"
INSTALL = "pip install '.[bench]'"


class MissingPeerError(RuntimeError):
    """A peer cannot run here; the text says why."""


@dataclass(frozen=True)
class Library:
    """A library's search.

    Attributes:
        prepare: takes features and prototypes, returns the call to time. Raises MissingPeerError.
        gives: what the call returns, "distance" (B, P) or "patch" (B, P).
        pool: its threads; those of torch and of others still spin for a while after a call (timing.py).
        precisions: how it can be asked to multiply on the CPU and on CUDA.
    """

    prepare: Callable[[Tensor, Tensor], Callable[[], Tensor]]
    gives: str
    pool: str
    cpu_precisions: tuple[str, ...]
    cuda_precisions: tuple[str, ...]


def require(package: str) -> None:
    if find_spec(package) is None:
        raise MissingPeerError(f"{package} is not installed ({INSTALL})")


def as_rows(features: Tensor) -> Tensor:
    """Patches (B, N, D), the depth innermost."""
    return features.detach().flatten(2).mT.contiguous()


def faiss_search(features: Tensor, prototypes: Tensor) -> Callable[[], Tensor]:
    """Exact search of every image's patches, one call an image."""
    require("faiss")
    faiss = import_module("faiss")
    rows, queries = as_rows(features), prototypes.detach().contiguous()
    if features.device.type == "cuda":
        if not hasattr(faiss, "StandardGpuResources"):
            raise MissingPeerError("faiss is installed without its GPU part")
        import_module("faiss.contrib.torch_utils")  # lets faiss take tensors on the device
        resources = faiss.StandardGpuResources()

        def search_on_gpu() -> Tensor:
            found = [faiss.knn_gpu(resources, queries, image, 1)[0] for image in rows]
            return torch.cat(found, dim=1).mT

        return search_on_gpu
    faiss.omp_set_num_threads(torch.get_num_threads())
    images, wanted = rows.numpy(), queries.numpy()

    def search() -> Tensor:
        found = [torch.from_numpy(faiss.knn(wanted, image, 1)[0]) for image in images]
        return torch.cat(found, dim=1).mT

    return search


def keops_search(features: Tensor, prototypes: Tensor) -> Callable[[], Tensor]:
    """One symbolic reduction over all images; compiled for the depth on the first call."""
    require("pykeops")
    if shutil.which("g++") is None:
        raise MissingPeerError("pykeops compiles with g++, which is not on the PATH")
    KEOPS_CACHE.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("KEOPS_CACHE_FOLDER", str(KEOPS_CACHE))
    os.environ.setdefault("KEOPS_VERBOSE", "0")
    lazy_tensor = import_module("pykeops.torch").LazyTensor
    rows = as_rows(features)[:, None]  # (B, 1, N, D)
    queries = prototypes.detach().contiguous()[None, :, None]  # (1, P, 1, D)

    def search() -> Tensor:
        squared = ((lazy_tensor(queries) - lazy_tensor(rows)) ** 2).sum(-1)  # (B, P, N), never stored
        return squared.min(dim=2).squeeze(-1)

    return search


def flash_kmeans_search(features: Tensor, prototypes: Tensor) -> Callable[[], Tensor]:
    """Its assignment step with prototypes as points and patches as centroids; a plain loop of products on the CPU."""
    require("flash_kmeans")
    rows = as_rows(features)  # (B, N, D)
    points = prototypes.detach().expand(len(rows), -1, -1).contiguous()  # (B, P, D)
    norms = points.square().sum(-1)  # (B, P)
    if features.device.type == "cuda":
        assign_on_gpu = import_module("flash_kmeans.assign_euclid_triton").euclid_assign_triton
        return lambda: assign_on_gpu(points, rows, norms)
    # The file alone: the package imports its Triton kernels, which want a GPU.
    assign = import_module("flash_kmeans.torch_fallback").euclid_assign_torch_native_chunked
    return lambda: assign(points, rows, norms)


LIBRARIES = {
    "faiss": Library(faiss_search, "distance", "faiss", ("fp32",), ("fp32",)),
    "pykeops": Library(keops_search, "distance", "keops", ("fp32",), ("fp32",)),
    "flash-kmeans": Library(flash_kmeans_search, "patch", "torch", ("fp32",), ("tf32",)),
}
