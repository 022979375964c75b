"""`auto` between the two CUDA backends, with made-up tables: the nearest problem decides, and without one the order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from protokern.kernels import backends, fastest, native_library
from protokern.kernels.backends import choose_backend
from protokern.kernels.fastest import Measured, quicker, rows, write_rows
from protokern.kernels.triton_common.limits import KNOWN_LIMITS, pretend

CUDA = torch.device("cuda")
SMALL = Measured("min_distance", "forward", 90, "tf32", 128, 49, 2000, 0.03, 0.02, "made up")
LARGE = replace(SMALL, depth=512, positions=196, triton_ms=0.2, native_ms=0.4)


class OnCuda:
    """What a choice asks of a tensor, without a device to hold it."""

    device = CUDA

    def __init__(self, *shape: int, dtype: torch.dtype = torch.float32) -> None:
        self.shape, self.dtype = torch.Size(shape), dtype

    def dim(self) -> int:
        return len(self.shape)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A table of the test's own, on a made-up H200 on which both backends run."""
    path = tmp_path / "fastest.csv"
    monkeypatch.setattr(backends.triton_availability, "device_types", lambda: ("cuda",))
    monkeypatch.setattr(backends.triton_availability, "device_problem", lambda device: "")
    monkeypatch.setattr(native_library, "_load_cuda_library", lambda: "")
    read = rows.__wrapped__
    monkeypatch.setattr(fastest, "rows", lambda: read(path))
    quicker.cache_clear()
    with pretend(KNOWN_LIMITS[90]):
        yield path
    quicker.cache_clear()


def chosen(
    depth: int, side: int, prototypes: int, precision: str | None = "tf32", op: str = "min_distance",
    dtype: torch.dtype = torch.float32, direction: str = "forward", patch: tuple[int, ...] = (),
) -> str:  # fmt: skip
    features, weights = OnCuda(8, depth, side, side, dtype=dtype), OnCuda(prototypes, depth, *patch, dtype=dtype)
    found = choose_backend("auto", CUDA, dtype, precision, op, features, weights, direction)  # type: ignore[arg-type]
    return found.backend


def test_the_nearest_problem_in_doublings_decides(table: Path) -> None:
    write_rows([SMALL, LARGE], table)
    assert chosen(128, 7, 2000) == "native"
    assert chosen(512, 14, 2000) == "triton"
    assert chosen(96, 7, 500) == "native"
    assert chosen(1024, 28, 10) == "triton"


def test_the_number_of_images_decides_nothing(table: Path) -> None:
    """An image has the same bits in every batch, so both are served by one backend."""
    write_rows([SMALL, LARGE], table)
    pairs = [(OnCuda(images, 128, 7, 7), OnCuda(2000, 128)) for images in (1, 1000)]
    found = {choose_backend("auto", CUDA, torch.float32, "tf32", "min_distance", *pair).backend for pair in pairs}
    assert found == {"native"}


def test_larger_patches_count_as_longer_vectors_on_a_smaller_grid(table: Path) -> None:
    write_rows([replace(SMALL, depth=128, positions=36, native_ms=9.0), replace(SMALL, depth=32, positions=49)], table)
    assert chosen(32, 7, 2000, patch=(2, 2)) == "triton"
    assert chosen(32, 7, 2000) == "native"


@pytest.mark.parametrize(
    "unlike",
    [
        {"op": "topk_pool"},
        {"direction": "backward"},
        {"precision": "bf16"},
        {"dtype": torch.float64, "precision": None},
        {"dtype": torch.bfloat16, "precision": None},
    ],
    ids=str,
)
def test_what_was_not_measured_goes_by_the_order(unlike: dict[str, str], table: Path) -> None:
    write_rows([SMALL], table)
    assert chosen(128, 7, 2000) == "native"
    assert chosen(128, 7, 2000, **unlike) == "triton"  # type: ignore[arg-type]


def test_half_inputs_go_by_the_precision_that_holds_them(table: Path) -> None:
    write_rows([SMALL], table)
    assert chosen(128, 7, 2000, precision=None, dtype=torch.float16) == "native"


def test_another_architecture_goes_by_the_order(table: Path) -> None:
    write_rows([SMALL], table)
    with pretend(KNOWN_LIMITS[80]):
        assert chosen(128, 7, 2000) == "triton"


def test_a_backend_that_cannot_run_is_not_chosen(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows([SMALL, LARGE], table)
    monkeypatch.setattr(native_library, "_load_cuda_library", lambda: "not built")
    assert chosen(128, 7, 2000) == "triton"
    monkeypatch.setattr(native_library, "_load_cuda_library", lambda: "")
    monkeypatch.setattr(backends.triton_availability, "device_problem", lambda device: "too old")
    assert chosen(512, 14, 2000) == "native"


def test_an_empty_table_leaves_the_order(table: Path) -> None:
    write_rows([], table)
    assert chosen(128, 7, 2000) == "triton"


def test_a_named_backend_is_taken_whatever_was_measured(table: Path) -> None:
    write_rows([SMALL], table)
    features, prototypes = OnCuda(8, 128, 7, 7), OnCuda(2000, 128)
    found = choose_backend("native", CUDA, torch.float32, "tf32", "min_distance", features, prototypes)  # type: ignore[arg-type]
    assert found.backend == "native"


def test_the_table_survives_the_file_and_is_sorted(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_rows([LARGE, SMALL], path)
    assert rows(path) == (SMALL, LARGE)


def test_the_table_of_the_package_is_readable() -> None:
    assert all(row.triton_ms > 0 and row.native_ms > 0 for row in rows())
