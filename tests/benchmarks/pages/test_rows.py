"""Rows survive the CSV, targets are judged by the last row, tables say what the rows say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.ops.cases import CASES
from benchmarks.ops.tiles import tiles_of
from benchmarks.pages.groups import newest
from benchmarks.pages.results import SPEED, append_dicts, append_rows, read_rows
from benchmarks.pages.rows import DeviceRow, SpeedRow
from benchmarks.pages.scenario_rows import PushRow
from benchmarks.pages.tables import (
    NOTHING,
    PAGE,
    PLACE,
    RESULTS_PAGE,
    Stored,
    comparison_table,
    from_results,
    full,
    main,
    scale,
    short,
)
from benchmarks.pages.targets import memory_verdict, summary, verdicts
from protokern.kernels.triton_common.configs import row_for
from tests.benchmarks.rows import DEVICE, FULL, MATMUL, MEMORY, MM, NATIVE, ON_GPU, ORIGINAL, PUSH


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


def test_rows_from_before_a_column_are_read_and_added_to(tmp_path: Path) -> None:
    path, now = tmp_path / "speed.csv", replace(NATIVE, tiles="64x64x32, 4 warps")
    append_rows(path, [NATIVE])
    lines = path.read_text().splitlines()
    assert lines[0].endswith(",clocks,tiles")
    assert lines[1].endswith(",")
    path.write_text(f"{lines[0].removesuffix(',tiles')}\n{lines[1].removesuffix(',')}\n")
    assert read_rows(path, SpeedRow) == [NATIVE]
    append_rows(path, [now])
    assert read_rows(path, SpeedRow) == [NATIVE, now]
    assert path.read_text().splitlines()[:2] == lines


def test_rows_are_not_added_to_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    append_dicts(path, [{"name": "one", "size": 3}])
    with pytest.raises(ValueError, match=r"rows\.csv: must have the columns .*; got .* Measure again\."):
        append_dicts(path, [{"name": "two", "weight": 3}])
    assert path.read_text() == "name,size\none,3\n"


def test_a_row_of_triton_names_its_tiles() -> None:
    text = tiles_of("prototype_pool", CASES["pool202"], "bf16", "sm_90")
    row = row_for("min_distance", 90, torch.float32, "bf16", 256, 784, 202)
    config = row.config
    assert text.startswith(f"{config.block_p}x{config.block_n}x{config.block_d}, {config.warps} warps")
    assert text.endswith(f"{config.path}; {row.source}")
    assert tiles_of("min_distance", CASES["tiny"], "fp32", "amx") == ""


def test_the_stored_rows_are_readable() -> None:
    rows = read_rows(SPEED, SpeedRow)
    assert rows
    assert {row.precision for row in rows} <= {"fp32", "tf32", "bf16"}
    assert {row.case for row in rows} <= set(CASES)


def one_target(rows: list[SpeedRow], *parts: str, isa: str = "") -> str:
    lines = [line for line in verdicts(rows) if (", avx2:" in line) == (isa == "avx2")]
    (line,) = [line for line in lines if all(part in line for part in parts)]
    return line


def test_a_target_is_judged_by_the_newest_rows() -> None:
    rows = [NATIVE, ORIGINAL, MM, MATMUL]
    peak = "cub200 fwd, avx512: share of the FMA peak >= 0.8"
    assert one_target(rows, "cub200 fwd", "FMA peak >= 0.8:") == f"{peak}: 0.836, reached"
    slower = replace(NATIVE, date="2026-11-22T10:00:00Z", peak_share=0.7)
    assert one_target([*rows, slower], "cub200 fwd", "FMA peak >= 0.8:") == f"{peak}: 0.7, MISSED"
    assert one_target(rows, "cub200 fwd", "torch.mm alone").endswith(">= 2: 2.34, reached")
    assert one_target(rows, "cub200 fwd", "quickest peer").endswith(">= 1: 4, reached")
    assert one_target(rows, "cub200 fwd", "in bf16 than") == (
        "cub200 fwd: times faster in bf16 than in fp32 >= 1.6: not measured"
    )
    rounded = replace(NATIVE, precision="bf16", p50_ms=2.5)
    assert one_target([*rows, rounded], "cub200 fwd", "in bf16 than").endswith(">= 1.6: 2, reached")


def test_one_core_has_targets_of_its_own() -> None:
    alone = replace(NATIVE, threads=1, peak_share=0.9)
    assert one_target([alone], "cub200 fwd, one core", "FMA peak").endswith(">= 0.85: 0.9, reached")
    assert one_target([alone], "cub200 fwd:", "FMA peak").endswith("not measured")
    assert one_target([NATIVE], "cub200 fwd, one core").endswith("not measured")


def test_instruction_sets_are_judged_apart() -> None:
    rows = [NATIVE, replace(NATIVE, isa="amx", peak_share=1.5)]
    lines = [line for line in verdicts(rows) if line.startswith("cub200 fwd, a") and "FMA peak" in line]
    measured = [line.split(":")[0] for line in lines if not line.endswith("not measured")]
    assert measured == ["cub200 fwd, amx", "cub200 fwd, avx512"]


def test_avx2_has_targets_of_its_own() -> None:
    older = [replace(row, isa="avx2") for row in (NATIVE, ORIGINAL, MM)]
    peak = "cub200 fwd, avx2: share of the FMA peak >= 0.8"
    assert one_target(older, "cub200 fwd", "FMA peak >= 0.8:", isa="avx2") == f"{peak}: 0.836, reached"
    assert one_target(older, "cub200 fwd", "torch.mm alone", isa="avx2").endswith(">= 1: 2.34, reached")
    assert one_target(older, "cub200 fwd:", "FMA peak >= 0.8:").endswith("not measured")
    assert one_target([NATIVE], "cub200 fwd", "FMA peak >= 0.8:", isa="avx2") == f"{peak}: not measured"


def test_the_baseline_is_measured_and_not_judged() -> None:
    assert verdicts([replace(NATIVE, isa="base")]) == verdicts([])


def test_the_targets_on_cuda() -> None:
    full_row = replace(ON_GPU, mode="full", precision="tf32", p50_ms=1.0)
    others = [
        replace(full_row, provider=name, p50_ms=ms)
        for name, ms in (("original", 6.0), ("matmul", 2.0), ("compile", 1.4))
    ]
    rows = [ON_GPU, replace(ON_GPU, timer="graph", p50_ms=0.012), full_row, *others]
    assert one_target(rows, "cub200 fwd", "in a graph").endswith("< 0.015: 0.012, reached")
    assert one_target(rows, "cub200 fwd", "eager").endswith("< 0.03: 5, MISSED")
    assert one_target(rows, "cub200 full", "the original, both TF32").endswith(">= 5: 6, reached")
    assert one_target(rows, "cub200 full", "torch.compile").endswith(">= 1.5: 1.4, MISSED")
    assert one_target(rows, "cub200 full", "product and reduction").endswith(">= 1: 2, reached")
    assert all(line.endswith("not measured") for line in verdicts([NATIVE, MM], "cuda"))
    # 51.4e9 operations at 494e12 a second are 0.104 ms; 0.2 ms are just over half of that rate.
    large = replace(ON_GPU, case="resnet14", precision="tf32", p50_ms=0.2)
    assert one_target([large], "resnet14 fwd", "tf32 floor").endswith(">= 0.5: 0.52, reached")
    # 34.4 MB at 4.3 TB/s are 8 us.
    wide = replace(ON_GPU, case="segment190", precision="bf16", p50_ms=0.016)
    assert one_target([wide], "segment190 fwd", "memory floor").endswith(">= 0.6: 0.5, MISSED")


def test_a_run_counts_the_targets_it_says_nothing_about() -> None:
    lines = summary([NATIVE], "cpu")
    assert lines[0] == "cub200 fwd, avx512: share of the FMA peak >= 0.8: 0.836, reached"
    assert lines[-1] == f"{len(verdicts([], 'cpu')) - 1} more: not measured in this run"


def test_the_memory_bounds() -> None:
    assert memory_verdict(MEMORY, None) == "target < 10%: reached"
    assert memory_verdict(replace(MEMORY, share=0.2), None) == "target < 10%: MISSED"
    assert memory_verdict(replace(MEMORY, case="cub200"), None) == ""
    ours = replace(MEMORY, isa="sm_90", case="imagenet14", extra_mb=100.0)
    original = replace(ours, provider="original", extra_mb=8000.0)
    assert memory_verdict(ours, original) == "1.2% of the original's, target < 2%: reached"
    assert memory_verdict(ours, None) == ""


@pytest.mark.parametrize(
    ("load", "others", "quiet"), [(0.1, 0.0, True), (0.5, 0.1, True), (0.6, 0.0, False), (0.1, 0.2, False)]
)
def test_a_row_knows_whether_the_machine_was_quiet(load: float, others: float, quiet: bool) -> None:
    assert replace(NATIVE, load=load, others=others).quiet is quiet


def test_the_newest_run_of_each_case_counts() -> None:
    old = replace(NATIVE, date="2026-11-20T10:00:00Z", p50_ms=7.0)
    comparisons = newest([old, FULL, ORIGINAL, NATIVE, MM])
    assert [(one.first.mode, len(one.rows)) for one in comparisons] == [("fwd", 3), ("full", 1)]


def test_the_short_table() -> None:
    stored = Stored(
        [NATIVE, ORIGINAL, MM, MATMUL],
        [MEMORY, replace(MEMORY, provider="original", extra_mb=403)],
        {PushRow: [PUSH]},
    )
    text = short(stored)
    assert text.splitlines()[2:] == [
        "| forward, B80 D128 7x7 P2000 | 50.0 ms | 20.0 ms (matmul) | 11.7 ms | **5 ms** | 10.0 x |",
        "",
        "- Extra memory of forward and backward at B64 D256 14x14 P2000: 4.2 MB, the original's 403 MB.",
        "- A push over 3068 images took 1.03 times as long as the bare efficientnet_lite0 "
        "(160 pixels, 100 prototypes).",
        "- On a CUDA device: not measured.",
        "- Medians, all measured in one run, interleaved. A Processor, 2 cores, avx512, torch 2.15.0, "
        "commit 0123456789, 2026-11-21.",
    ]
    busy = short(Stored([replace(row, load=1.5) for row in stored.speed]))
    assert "| forward, B80 D128 7x7 P2000 \\* |" in busy
    assert busy.endswith("\\* other work was running on the machine.")


def test_the_short_table_has_a_line_for_every_instruction_set() -> None:
    older = [replace(row, isa="avx2", p50_ms=2 * row.p50_ms) for row in (NATIVE, ORIGINAL)]
    lines = short(Stored([NATIVE, ORIGINAL, *older])).splitlines()[2:4]
    assert [line.split(" | ")[0] for line in lines] == [
        "| forward, B80 D128 7x7 P2000, avx2",
        "| forward, B80 D128 7x7 P2000, avx512",
    ]
    assert [line.split(" | ")[4] for line in lines] == ["**10.0 ms**", "**5 ms**"]


def test_the_short_table_has_cuda_rows_once_they_exist() -> None:
    ours = replace(ON_GPU, mode="full", precision="tf32", p50_ms=0.5)
    original = replace(ours, provider="original", p50_ms=5.0)
    text = short(Stored([ours, original]))
    assert "| forward + backward, B80 D128 7x7 P2000 | 5 ms |  |  | **0.5 ms** | 10.0 x |" in text
    assert "not measured" not in text
    assert "A GPU, 132 multiprocessors, sm_90" in text


def test_a_comparison_lists_everyone_quickest_first() -> None:
    bf16 = replace(NATIVE, precision="bf16", p50_ms=2.5, gflops=802.8, peak_share=1.672)
    (comparison,) = newest([ORIGINAL, NATIVE, MM, bf16, replace(NATIVE, timer="graph", p50_ms=4.0)])
    lines = comparison_table(comparison).splitlines()
    assert lines[0] == "|  | 20 % | median | 80 % | against the original | GFLOP/s | of peak | of floor |"
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "**native, bf16**",
        "**native**",
        "mm (no distance)",
        "original",
        "**native**, in a graph",
    ]
    assert lines[3] == "| **native** | 4.9 ms | 5 ms | 5.2 ms | 10.0 x | 401 | 84% | 84% |"


def test_all_tables_name_what_is_not_measured() -> None:
    stored = Stored([NATIVE], [MEMORY], {PushRow: [PUSH]})
    text = f"{full(stored)}\n{scale(stored)}"
    assert "## Times on a CUDA device\n\nOn a CUDA device: not measured." in text
    assert "| cub200 full | times faster than torch.compile >= 1.5 | not measured |" in text
    assert "| cub200 fwd, avx512 | share of the FMA peak >= 0.8 | 0.836, reached |" in text
    assert "**`min_distance`, forward, cub200** (B80 D128 7x7 P2000), avx512, 2 threads" in text
    assert "| **native**, B64 D256 14x14 P2000 | 4.2 | 4.2% |" in text
    assert "| 3068 images, efficientnet_lite0 at 160 pixels, 100 prototypes | 60.0 s | 62.1 s | 1.035 |" in text


def test_networks_on_a_device_have_a_table() -> None:
    text = full(Stored([NATIVE], others={DeviceRow: [replace(DEVICE, images_per_s=1.0), DEVICE]}))
    assert "## Networks on a CUDA device" in text
    what = "train, resnet34 at 224 pixels, 2000 prototypes, batch 80, bf16, `auto`"
    assert f"| {what} | 1,234 | 5,678 | a 50%; b 30%; c 9% |" in text
    assert text.count("| train, resnet34") == 1


def test_on_a_device_the_load_before_says_nothing() -> None:
    assert replace(ON_GPU, load=15.0).quiet
    assert not replace(ON_GPU, others=0.5).quiet


def test_without_rows_the_tables_say_so() -> None:
    assert short(Stored()) == full(Stored()) == scale(Stored()) == NOTHING


def test_the_tables_go_between_the_markers() -> None:
    text = f"before\n{PLACE.begin}\nold\n{PLACE.end}\nafter\n"
    assert PLACE.insert(text, "new") == f"before\n{PLACE.begin}\nnew\n{PLACE.end}\nafter\n"
    with pytest.raises(ValueError, match="page: must have the lines"):
        PLACE.insert("no markers", "new")


def test_the_table_command_writes_all_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme, page, results = (tmp_path / name for name in ("README.md", "benchmarks.md", "results.md"))
    for path in (readme, page, results):
        path.write_text(f"# title\n{PLACE.begin}\n{PLACE.end}\n")
    assert main(["--write", "--readme", str(readme), "--page", str(page), "--results-page", str(results)]) == 0
    assert readme.read_text() == f"# title\n{PLACE.begin}\n{capsys.readouterr().out.rstrip()}\n{PLACE.end}\n"
    assert "## Targets" in page.read_text()
    assert "### Push" in results.read_text()


def test_the_pages_of_tables_are_what_the_rows_generate() -> None:
    for path, tables in ((PAGE, full), (RESULTS_PAGE, scale)):
        page = path.read_text(encoding="utf-8")
        assert PLACE.insert(page, tables(from_results())) == page, "run: python -m benchmarks tables --write"


def test_a_case_with_fewer_images_says_so() -> None:
    cut = CASES["imagenet14-b8"]
    assert (cut.images, cut.prototypes, cut.title) == (8, 10000, "B8 D256 14x14 P10000, 8 of 256 images")
    assert CASES["cub200-nhwc"].title == "B80 D128 7x7 P2000, channels_last"


def test_the_work_and_traffic_of_a_case() -> None:
    case = CASES["cub200"]
    assert case.forward_gflop == pytest.approx(2.007, abs=1e-3)
    assert case.forward_bytes == 4 * (80 * 128 * 49 + 2000 * 128) + 12 * 80 * 2000
