"""The table of tiles: its file, the nearest row, and tiles that fit the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from protokern.kernels.backends import PRECISIONS
from protokern.kernels.triton_common import configs
from protokern.kernels.triton_common.configs import (
    TABLE,
    Config,
    Row,
    choose,
    forced,
    num_splits,
    rows,
    shrink,
    write_rows,
)
from protokern.kernels.triton_common.limits import KNOWN_LIMITS

TILES = Config(block_p=128, block_n=128, block_d=32, warps=8, stages=3, waves=2, path="")
FITS = {"depth": 512, "positions": 196, "prototypes": 2000}
PATHS = {"min_distance": ("operands", "strided"), "min_distance_backward": ("gather",)}
OPS = ("min_distance", "min_distance_backward", "mean_activation", "topk_distance")


def two_operands(config: Config) -> int:
    """Shared memory of a product in float32 that keeps every step in flight."""
    return 4 * config.stages * config.block_d * (config.block_p + config.block_n)


class TestTable:
    def test_is_written_as_it_is_read(self, tmp_path: Path) -> None:
        write_rows(list(rows()), tmp_path / "configs.csv")
        assert (tmp_path / "configs.csv").read_text() == TABLE.read_text()

    def test_two_rows_for_one_problem_are_refused(self, tmp_path: Path) -> None:
        row = rows()[0]
        with pytest.raises(AssertionError, match="two rows for one problem"):
            write_rows([row, replace(row, config=TILES)], tmp_path / "configs.csv")

    @pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.op}-{row.arch}-{row.precision}-{row.positions}")
    def test_tiles_can_be_compiled(self, row: Row) -> None:
        config = row.config
        assert row.op in OPS
        assert row.arch in KNOWN_LIMITS
        for size in (config.block_p, config.block_n, config.block_d):
            assert size in (16, 32, 64, 128, 256)
        assert config.warps in (1, 2, 4, 8)
        assert config.path in PATHS.get(row.op, ("",))
        assert row.source
        assert shrink(config, KNOWN_LIMITS[row.arch], lambda _: 0) == config  # the products fit the registers

    @pytest.mark.parametrize("arch", KNOWN_LIMITS)
    @pytest.mark.parametrize("op", OPS)
    def test_serves_every_device_and_precision(self, op: str, arch: int) -> None:
        # A gradient is never computed more coarsely than in float32.
        for precision in PRECISIONS if arch >= 80 and not op.endswith("_backward") else ("fp32",):
            assert choose(op, arch, torch.float32, precision, 128, 49, 2000)


class TestChoice:
    @pytest.fixture(autouse=True)
    def table(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        small = Row("search", 80, "any", "fp32", 128, 49, 2000, replace(TILES, block_n=16), "derived")
        table = (
            small,
            replace(small, positions=196, config=replace(TILES, block_n=32)),
            replace(small, positions=784, config=replace(TILES, block_n=64)),
            replace(small, dtype="float16", config=replace(TILES, block_p=16)),
            replace(small, arch=90, config=replace(TILES, block_n=128)),
            replace(small, precision="bf16", config=replace(TILES, block_d=64)),
        )
        monkeypatch.setattr(configs, "rows", lambda: table)
        configs.row_for.cache_clear()
        yield
        configs.row_for.cache_clear()

    @staticmethod
    def block_n(arch: int = 80, *, depth: int = 128, positions: int = 49, prototypes: int = 2000) -> int:
        return choose("search", arch, torch.float32, "fp32", depth, positions, prototypes).block_n

    @pytest.mark.parametrize(("positions", "wanted"), [(1, 16), (49, 16), (97, 16), (99, 32), (300, 32), (9000, 64)])
    def test_the_fewest_doublings_away(self, positions: int, wanted: int) -> None:
        assert self.block_n(positions=positions) == wanted

    def test_the_first_on_a_tie(self) -> None:
        assert self.block_n(positions=98) == 16

    @pytest.mark.parametrize(("arch", "wanted"), [(75, 16), (80, 16), (89, 16), (90, 128), (120, 128)])
    def test_the_newest_architecture_that_is_not_newer(self, arch: int, wanted: int) -> None:
        assert self.block_n(arch) == wanted

    def test_a_row_for_the_type_before_one_for_any(self) -> None:
        assert choose("search", 80, torch.float16, "fp32", 128, 784, 2000).block_p == 16
        assert choose("search", 80, torch.bfloat16, "fp32", 128, 49, 2000).block_p == 128

    def test_the_precision(self) -> None:
        assert choose("search", 80, torch.float32, "bf16", 1, 1, 1).block_d == 64

    def test_a_measurement_chooses_for_itself(self) -> None:
        with forced(replace(TILES, block_n=256)):
            assert self.block_n() == 256
        assert self.block_n() == 16

    def test_empty_problems_have_tiles_too(self) -> None:
        assert self.block_n(prototypes=0) == 16


class TestShrink:
    def test_what_fits_stays(self) -> None:
        assert shrink(TILES, KNOWN_LIMITS[90], two_operands) == TILES

    @pytest.mark.parametrize("arch", KNOWN_LIMITS)
    def test_every_device_gets_tiles_that_fit(self, arch: int) -> None:
        small = shrink(replace(TILES, block_d=64, stages=4), KNOWN_LIMITS[arch], two_operands)
        assert two_operands(small) <= KNOWN_LIMITS[arch].shared_bytes

    def test_fewer_steps_in_flight_come_first(self) -> None:
        limits = replace(KNOWN_LIMITS[90], shared_bytes=70_000)
        assert shrink(TILES, limits, two_operands) == replace(TILES, stages=2)

    def test_then_smaller_tiles_then_shorter_steps(self) -> None:
        limits = replace(KNOWN_LIMITS[90], shared_bytes=20_000)
        assert shrink(TILES, limits, two_operands) == replace(TILES, stages=2, block_p=32, block_n=32)
        limits = replace(KNOWN_LIMITS[90], shared_bytes=10_000)
        assert shrink(TILES, limits, two_operands) == replace(TILES, stages=2, block_p=32, block_n=32, block_d=16)

    def test_products_fit_the_registers(self) -> None:
        small = shrink(replace(TILES, warps=2), KNOWN_LIMITS[90], two_operands)
        assert small == replace(TILES, warps=2, block_p=64)

    def test_warps_fit_the_registers_of_a_block(self) -> None:
        limits = replace(KNOWN_LIMITS[90], registers=16_384)
        assert shrink(TILES, limits, two_operands) == replace(TILES, warps=2, block_p=64)

    def test_what_fits_nowhere_is_said(self) -> None:
        message = (
            r"^triton: the smallest tiles need 300000 bytes of shared memory; the device has 232448\. Use backend="
        )
        with pytest.raises(RuntimeError, match=message):
            shrink(TILES, KNOWN_LIMITS[90], lambda config: 300_000)


class TestSplits:
    @pytest.mark.parametrize(
        ("programs", "positions", "wanted"),
        [
            (1000, 49, 1),  # enough programs
            (32, 8385, 9),  # 2 * 132 / 32
            (1, 49, 1),  # a part has two tiles at least
            (1, 600, 2),
            (0, 8385, 32),
        ],
    )
    def test_leave_no_multiprocessor_idle(self, programs: int, positions: int, wanted: int) -> None:
        assert num_splits(TILES, KNOWN_LIMITS[90], programs, positions) == wanted
