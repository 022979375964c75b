"""Rows survive the CSV, targets are judged by the last row, tables say what the rows say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.results import append_rows, read_rows
from benchmarks.rows import MemoryRow, PushRow, SpeedRow
from benchmarks.table import BEGIN, END, NOTHING, generate, insert, main, speed_table
from benchmarks.targets import TARGETS

MACHINE = {
    "date": "2026-11-21T10:00:00Z",
    "git_sha": "0123456789",
    "device": "A Processor",
    "cores": 2,
    "isa": "avx512",
    "torch_version": "2.15.0",
    "protokern_version": "0.1.0",
    "load": 0.1,
    "others": 0.02,
}
NATIVE = SpeedRow(
    **MACHINE,
    op="min_distance",
    provider="native",
    case="cub200",
    mode="fwd",
    dtype="float32",
    threads=2,
    rounds=51,
    p20_ms=4.9,
    p50_ms=5.0,
    p80_ms=5.2,
    gflops=401.4,
    peak_gflops=480.0,
    peak_source="fused multiply-adds in registers",
    peak_share=0.836,
    faster_than_original=10.0,
    faster_than_mm=2.34,
)
ORIGINAL = replace(NATIVE, provider="original", p50_ms=50.0, faster_than_original=1.0, faster_than_mm=0.234)
MM = replace(NATIVE, provider="mm", p50_ms=11.7, faster_than_original=4.27, faster_than_mm=1.0)
FULL = replace(NATIVE, mode="full", gflops=None, peak_share=None, faster_than_mm=None)
MEMORY = MemoryRow(**MACHINE, provider="native", case="grid14", extra_mb=4.2, map_mb=100.352, share=0.0419)
PUSH = PushRow(
    **MACHINE,
    backbone="efficientnet_lite0",
    images=3068,
    image_size=160,
    prototypes=100,
    threads=2,
    rounds=3,
    backbone_s=60.0,
    push_s=62.1,
    ratio=1.035,
)


def test_rows_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "speed.csv"
    append_rows(path, [NATIVE, FULL])
    append_rows(path, [MM])
    assert read_rows(path, SpeedRow) == [NATIVE, FULL, MM]
    assert path.read_text().count("p50_ms") == 1


def test_a_missing_file_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "none.csv", SpeedRow) == []


def test_a_file_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "memory.csv"
    append_rows(path, [MEMORY])
    with pytest.raises(ValueError, match=r"memory\.csv: must have the columns .*; got .* Measure again\."):
        read_rows(path, SpeedRow)


def test_a_target_is_judged_by_the_last_row() -> None:
    original, mm, share, full = TARGETS[:4]
    assert original.verdict([NATIVE, MM]) == "cub200 fwd: times faster than the original formula >= 8: 10.00, reached"
    assert mm.verdict([NATIVE, replace(NATIVE, faster_than_mm=1.9)]).endswith(">= 2: 1.90, MISSED")
    assert share.verdict([NATIVE]).endswith("share of the FMA peak >= 0.75: 0.84, reached")
    assert full.verdict([NATIVE, MM]).endswith("not measured")


@pytest.mark.parametrize(
    ("load", "others", "quiet"), [(0.1, 0.0, True), (0.5, 0.1, True), (0.6, 0.0, False), (0.1, 0.2, False)]
)
def test_a_row_knows_whether_the_machine_was_quiet(load: float, others: float, quiet: bool) -> None:
    assert replace(NATIVE, load=load, others=others).quiet is quiet


def test_the_speed_table_shows_the_newest_run_of_each_case() -> None:
    old = replace(NATIVE, date="2026-11-20T10:00:00Z", p50_ms=7.0)
    lines = speed_table([old, FULL, ORIGINAL, NATIVE, MM]).splitlines()
    assert lines[2:] == [
        "| forward, B80 D128 7x7 P2000 | 50.0 ms | 11.7 ms | 5.00 ms | 10.0 x | 2.3 x | 84% |",
        "| forward + backward, B80 D128 7x7 P2000 |  |  | 5.00 ms | 10.0 x |  |  |",
    ]


def test_the_speed_table_keeps_instruction_sets_apart() -> None:
    lines = speed_table([replace(NATIVE, isa="amx", p50_ms=3.0), MM, NATIVE]).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "forward, B80 D128 7x7 P2000, amx",
        "forward, B80 D128 7x7 P2000, avx512",
    ]


def test_the_tables_name_the_machine_and_mark_a_busy_one() -> None:
    text = generate([NATIVE], [MEMORY], [PUSH])
    assert "| protokern, B64 D256 14x14 P2000 | 4.2 | 4.2% |" in text
    assert "| 3068 images, efficientnet_lite0 at 160 pixels, 100 prototypes | 60.0 s | 62.1 s | 1.035 |" in text
    assert text.count("A Processor, 2 cores, avx512, torch 2.15.0, commit 0123456789, 2026-11-21.") == 1
    assert "\\*" not in text
    busy = generate([replace(NATIVE, load=1.5)], [], [])
    assert "| forward, B80 D128 7x7 P2000 \\* |" in busy
    assert "\\* other work was running on the machine." in busy


def test_without_rows_the_table_says_so() -> None:
    assert generate([], [], []) == NOTHING


def test_the_tables_go_between_the_markers() -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert insert(text, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    with pytest.raises(ValueError, match="README: must have the lines"):
        insert("no markers", "new")


def test_the_table_command_writes_a_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# title\n{BEGIN}\n{END}\n")
    assert main(["--write", "--readme", str(readme)]) == 0
    assert readme.read_text() == f"# title\n{BEGIN}\n{capsys.readouterr().out.rstrip()}\n{END}\n"
