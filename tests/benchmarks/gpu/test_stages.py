"""The stages of `make gpu` as far as a processor goes: tiny units of each, and what is done with their results."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from benchmarks.commit import ROOT
from benchmarks.gpu import afterwards, battery, command, environment, networks, speed, summary, tiles
from benchmarks.gpu.plan import STAGES, Record, Settings
from benchmarks.gpu.runner import NO_DEVICE
from benchmarks.gpu.store import FILES, fingerprint
from benchmarks.ops.ops import OPS
from benchmarks.pages.results import append_dicts, append_rows, read_rows
from benchmarks.pages.rows import DeviceRow, SpeedRow
from benchmarks.tools.tune import WRONG, Trial
from protokern.kernels.fastest import Measured
from protokern.kernels.triton_common import configs
from protokern.kernels.triton_common.configs import Config
from protokern.kernels.triton_common.limits import KNOWN_LIMITS
from tests.benchmarks.rows import ON_GPU

REHEARSAL = Settings(rehearse=True, commit="0123456789")
DONE = Record(status="done", text="", tries=1, data={})
interpreted = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return replace(REHEARSAL, home=str(tmp_path))


class TestEnvironment:
    def test_without_a_device_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        result = environment.look({"name": "device"}, Settings())
        assert result.status == "missing"
        assert "sees no CUDA device" in result.text

    def test_libraries_are_taken_as_they_are_where_that_is_asked_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PROTOKERN_BUILD", "none")
        monkeypatch.setattr(subprocess, "run", None)
        (tmp_path / environment.LIBRARIES[0]).write_text("")
        result = environment.build(Settings(), tmp_path)
        assert result.text.endswith("taken as they are; missing: libprotokern_cuda.so")

    def test_libraries_that_are_there_are_not_built_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("PROTOKERN_BUILD", raising=False)
        for name in environment.LIBRARIES:
            (tmp_path / name).write_text("")
        assert environment.build(REHEARSAL, tmp_path).text.startswith("found libprotokern_cpu.so")
        os.utime(tmp_path / environment.LIBRARIES[0], (0, 0))
        assert "sources are newer than the libraries" in environment.build(REHEARSAL, tmp_path).text
        (tmp_path / environment.LIBRARIES[1]).unlink()
        assert "no libprotokern_cuda.so" in environment.build(REHEARSAL, tmp_path).text

    @pytest.mark.parametrize(("code", "said"), [(1, "exit code 1"), (0, "there is no libprotokern_cpu.so")])
    def test_a_build_that_fails_is_told_with_its_last_words(
        self, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("PROTOKERN_BUILD", raising=False)
        answer = subprocess.CompletedProcess([], code, stdout="first\nnvcc: error")
        monkeypatch.setattr(subprocess, "run", lambda *given, **options: answer)
        result = environment.build(Settings(), tmp_path)
        assert result.status == "crashed"
        assert said in result.text
        assert result.text.endswith("nvcc: error")

    def test_versions_and_backends_are_named(self) -> None:
        assert f"torch {version('torch')}" in environment.prepare({"name": "versions"}, REHEARSAL).text
        assert "native: yes" in environment.prepare({"name": "import"}, REHEARSAL).text


class TestSpeed:
    def test_the_most_important_rows_come_first(self) -> None:
        names = [unit["name"] for unit in speed.measure_units(Settings(), {})]
        assert len(names) == len(set(names))
        assert names[:4] == [
            "min_distance fwd cub200",
            "min_distance full cub200",
            "min_distance full resnet14",
            "min_distance fwd resnet14",
        ]
        assert names[4] == "memory original tf32"
        assert names.index("min_distance full cub200 with torch.compile") > names.index("min_distance full pool202")

    def test_what_crashed_in_the_smoke_stage_is_not_timed(self) -> None:
        crashed = {"smoke": {"triton min_distance tf32 D5-4x3-P7": replace(DONE, status="crashed")}}
        units = speed.measure_units(Settings(), crashed)
        without = {unit["op"]: unit["without"] for unit in units if "op" in unit}
        assert without["min_distance"] == ["triton"]
        assert without["topk_pool"] == []
        assert not any(unit["name"].startswith("memory triton") for unit in units)

    def test_a_point_is_measured_and_every_row_comes_back(self) -> None:
        unit = speed.measure_units(REHEARSAL, {})[0]
        result = speed.measure(unit, REHEARSAL)
        assert result.status == "measured"
        rows = [SpeedRow(**row) for row in result.tables["speed"]]
        assert {row.provider for row in rows} == {"native", "original", "matmul", "mm", "mm+min"}
        assert not any(row.on_cuda for row in rows)
        assert "min_distance fwd tiny" in result.text

    def test_a_wrong_answer_is_not_timed_and_makes_the_unit_wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        wrong = replace(OPS["min_distance"], ours=lambda *given: torch.zeros(2, 5))
        monkeypatch.setitem(OPS, "min_distance", wrong)
        result = speed.measure(speed.measure_units(REHEARSAL, {})[0], REHEARSAL)
        assert result.status == "wrong"
        assert "native" not in {row["provider"] for row in result.tables["speed"]}

    def test_memory_is_measured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(speed, "measure_apart", lambda name, precision, case: 4_500_000)
        units = [unit for unit in speed.measure_units(REHEARSAL, {}) if "provider" in unit]
        result = speed.measure(units[0], REHEARSAL)
        (row,) = result.tables["memory"]
        assert (row["provider"], row["case"], row["extra_mb"]) == ("original", "tiny", 4.5)

    def test_no_room_for_an_unfused_method_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*given: object) -> int:
            raise torch.OutOfMemoryError("no room for the maps\nmore")

        monkeypatch.setattr(speed, "measure_apart", refuse)
        units = [unit for unit in speed.measure_units(REHEARSAL, {}) if "provider" in unit]
        result = speed.measure(units[0], REHEARSAL)
        assert (result.status, result.text, result.tables) == ("missing", "no room for the maps", {})

    def test_the_launches_of_all_comparisons_are_compiled_ahead(self) -> None:
        names = {unit["name"] for unit in speed.prepare_units(Settings(), {})}
        assert {"min_distance cub200 tf32", "min_distance_backward cub200", "topk_distance cub200 bf16"} <= names
        assert {"mean_activation pool202 fp32", "mean_activation_backward pool202"} <= names


# A process of its own: in this one kernels are interpreted.
COMPILE = """
from benchmarks.gpu import speed, tiles
from benchmarks.gpu.plan import Settings
settings = Settings(rehearse=True)
for part in (speed, tiles):
    for unit in part.prepare_units(settings, {})[:2]:
        print(part.prepare(unit, settings).status)
"""


@pytest.mark.slow
def test_launches_and_candidates_are_compiled_without_a_device(tmp_path: Path) -> None:
    surroundings = {
        **os.environ,
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["done"] * 4, done.stderr[-2000:]
    kernels = {path.stem for path in tmp_path.rglob("*.cubin")}
    assert {"min_distance_search_kernel", "prep_kernel", "grad_features_kernel"} <= kernels


class TestTiles:
    pytestmark = interpreted

    def test_the_tiles_of_the_table_are_tried_first_and_of_the_others_the_nearest(self) -> None:
        units = tiles.prepare_units(Settings(), {})
        assert len(units) == 5 * tiles.MOST
        by_task: dict[str, list[Config]] = {}
        for unit in units:
            by_task.setdefault(unit["task"], []).append(Config(**unit["config"]))
        for name, found in by_task.items():
            assert found[0] == tiles.present(tiles.tasks(False)[name], KNOWN_LIMITS[90])
            assert len(set(found)) == len(found)
        assert [unit["task"] for unit in units[:5]] == list(by_task)

    def test_what_the_compiler_refused_is_not_timed(self) -> None:
        (name, task), *_ = tiles.tasks(True).items()
        config = asdict(tiles.present(task, KNOWN_LIMITS[90]))
        data = {"name": "one", "task": name, "config": config, "refused": ""}
        records = {
            "candidates": {"one": replace(DONE, data=data), "two": replace(DONE, data={**data, "refused": "no"})}
        }
        assert [unit["name"] for unit in tiles.measure_units(REHEARSAL, records)] == ["one"]

    def test_a_candidate_is_timed_and_the_best_chosen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        (name, task), *_ = tiles.tasks(True).items()
        monkeypatch.setattr(tiles, "limits_here", lambda rehearse: KNOWN_LIMITS[90])
        config = tiles.present(task, KNOWN_LIMITS[90])
        result = tiles.measure({"name": "one", "task": name, "config": asdict(config)}, REHEARSAL)
        assert result.status == "measured"
        other = replace(config, block_n=config.block_n // 2)
        timed = [[3.0, asdict(config)], [2.0, asdict(other)]]
        records = {
            "tiles": {
                str(ms): replace(DONE, status="measured", data={"ms": ms, "task": name, "config": one})
                for ms, one in timed
            }
        }
        (unit,) = tiles.store_units(REHEARSAL, records)
        assert unit["name"] == f"{name}: best of 2"
        before = configs.TABLE.read_bytes()
        stored = tiles.store(unit, REHEARSAL)
        assert configs.TABLE.read_bytes() == before  # a rehearsal
        (row,) = stored.tables["tiles"]
        assert (row["block_n"], row["ms"], row["ms_before"]) == (other.block_n, 2.0, 3.0)
        assert row["source"] == "measured on the processor (rehearsal)"

    def test_a_wrong_candidate_is_never_the_best(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Trial, "milliseconds", lambda trial, config, timer: WRONG)
        (name, task), *_ = tiles.tasks(True).items()
        unit = {"name": "one", "task": name, "config": asdict(tiles.present(task, KNOWN_LIMITS[90]))}
        result = tiles.measure(unit, REHEARSAL)
        assert result.status == "wrong"
        assert tiles.store_units(REHEARSAL, {"tiles": {"one": replace(DONE, status="wrong")}}) == []


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("task", ["train", "push", "search"])
def test_a_network_is_trained_pushed_and_searched(task: str) -> None:
    unit = {"name": task, "task": task, "precision": "tf32", "backend": "auto"}
    result = networks.measure(unit, REHEARSAL)
    row = DeviceRow(**result.tables["device"][0])
    assert (row.task, row.backbone, row.prototypes) == (task, "tiny", 4)
    assert row.images_per_s > 0
    assert 1 <= row.profile.count(";") + 1 <= networks.TOP


class TestBattery:
    @pytest.fixture(autouse=True)
    def tests(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # of this run, which is not the one that is started
        path = tmp_path / "test_made_up.py"
        path.write_text("def test_one():\n    pass\n\n\ndef test_two():\n    assert 1 == 2\n")
        return path

    def test_outcomes_are_written_and_what_passed_is_left_out(self, tests: Path, home: Settings) -> None:
        unit = {"name": str(tests)}
        first = battery.test(unit, home)
        outcomes = battery.read_outcomes(Path(home.home) / battery.outcomes_name(str(tests)))
        assert sorted(outcomes.values()) == ["failed", "passed"]
        assert first.status == "wrong"
        assert "test_two" in first.text
        tests.write_text("def test_one():\n    assert 1 == 2\n\n\ndef test_two():\n    pass\n")
        assert battery.test(unit, home).status == "right"  # the first is left out: it passed before

    @pytest.mark.slow
    def test_a_test_that_ends_its_process_costs_no_other(
        self, tests: Path, home: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Several processes, as on a device."""
        monkeypatch.setattr(os, "cpu_count", lambda: 4)
        lines = ["import os", "import pytest", "pytestmark = pytest.mark.gpu"]
        lines += ["def test_crash():\n    os.abort()", "@pytest.mark.parametrize('one', range(6))"]
        tests.write_text("\n\n\n".join([*lines[:-1], lines[-1] + "\ndef test_one(one):\n    pass\n"]))
        result = battery.test({"name": str(tests)}, replace(home, rehearse=False))
        outcomes = battery.read_outcomes(Path(home.home) / battery.outcomes_name(str(tests)))
        failed = {name.partition("::")[2] for name, outcome in outcomes.items() if outcome == "failed"}
        assert (len(outcomes), failed) == (7, {"test_crash"})
        assert result.status == "wrong"

    def test_a_file_that_cannot_be_read_is_crashed(self, tests: Path, home: Settings) -> None:
        tests.write_text("import no_such_module\n")
        result = battery.test({"name": str(tests)}, home)
        assert result.status in ("crashed", "wrong")


class TestSummary:
    def test_the_rows_are_told_most_important_first(self, tmp_path: Path) -> None:
        append_rows(tmp_path / "speed.csv", [ON_GPU])
        config = configs.rows()[0]
        line = dict(zip(configs.COLUMNS, configs.line_of(config), strict=True))
        append_dicts(tmp_path / "tiles.csv", [line | {"ms": 1.0, "ms_before": 2.0}])
        parts = summary.parts(tmp_path, rehearse=False)
        assert [part.splitlines()[0] for part in parts] == ["targets", "median ms, eager, cold cache", "tiles"]
        assert "cub200 fwd, avx512" not in parts[0]
        assert "cub200" in parts[1]
        assert parts[2].endswith(": 1.0 ms, before 2.0 ms")

    def test_a_screen_holds_it(self) -> None:
        assert summary.first_of(list("ab"), "speed.csv") == ["a", "b"]
        lines = summary.first_of([str(one) for one in range(50)], "speed.csv")
        assert lines[-2:] == ["19", "and 30 more in speed.csv"]

    def test_without_rows_there_is_nothing_to_tell(self, tmp_path: Path) -> None:
        assert summary.parts(tmp_path, rehearse=False) == []


class TestAfterwards:
    def test_rows_of_another_machine_are_added_once(self, tmp_path: Path) -> None:
        out, results = tmp_path / "out", tmp_path / "results"
        append_rows(out / "speed.csv", [ON_GPU])
        assert afterwards.take_rows(out, results)[0] == "speed.csv: 1 rows added"
        assert afterwards.take_rows(out, results)[0] == "speed.csv: 0 rows added"
        assert read_rows(results / "speed.csv", SpeedRow) == [ON_GPU]

    def test_measured_tiles_take_the_place_of_derived_ones(self, tmp_path: Path) -> None:
        table, row = tmp_path / "configs.csv", configs.rows()[0]
        configs.write_rows(list(configs.rows()), table)
        found = replace(row, config=replace(row.config, warps=16), source="measured on a GPU")
        line = dict(zip(configs.COLUMNS, configs.line_of(found), strict=True))
        append_dicts(tmp_path / "tiles.csv", [line | {"ms": 2.0}, line | {"ms": 1.0}])
        assert afterwards.take_tiles(tmp_path, table) == "configs.csv: 1 rows of measured tiles"
        configs.rows.cache_clear()
        assert found in configs.rows(table)
        assert len(configs.rows(table)) == len(configs.rows())

    def test_both_backends_of_a_problem_make_a_row_for_auto(self) -> None:
        native = replace(ON_GPU, provider="native", p50_ms=4.0)
        full = [replace(ON_GPU, mode="full", p50_ms=11.0), replace(native, mode="full", p50_ms=14.0)]
        alone = replace(ON_GPU, case="pool202")
        found = afterwards.measured_rows([ON_GPU, native, *full, alone])
        source = "A GPU, 0123456789"
        assert found == [
            Measured("min_distance", "forward", 90, "fp32", 128, 49, 2000, 5.0, 4.0, source),
            Measured("min_distance", "backward", 90, "fp32", 128, 49, 2000, 6.0, 10.0, source),
        ]

    def test_a_backward_quicker_than_nothing_makes_no_row(self) -> None:
        pair = [ON_GPU, replace(ON_GPU, provider="native")]
        found = afterwards.measured_rows([*pair, *(replace(row, mode="full", p50_ms=1.0) for row in pair)])
        assert [row.direction for row in found] == ["forward"]

    def test_a_folder_that_is_none_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SystemExit, match=r"--store: must be a folder that a run wrote; got .* Give its --out\."):
            afterwards.main(tmp_path / "none", choose=False)


class TestCommand:
    @pytest.mark.slow
    def test_without_a_device_it_ends_quickly_with_what_it_did_not_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        if torch.cuda.is_available():
            pytest.skip("there is one here")
        monkeypatch.setattr(command, "ROOT", tmp_path)
        start = time.monotonic()
        assert command.main(["--out", str(tmp_path / "out")]) == NO_DEVICE
        assert time.monotonic() - start < 30
        printed = capsys.readouterr().out
        for stage in STAGES:
            assert f"{stage.letter}. {stage.title}" in printed
        assert "There is no CUDA device here, so nothing was done of:" in printed

    def test_time_must_be_positive(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            command.main(["--minutes", "0"])
        assert "--minutes: must be positive; got 0." in capsys.readouterr().err

    def test_at_most_eight_files_come_out(self) -> None:
        assert len(FILES) == 8
        assert all(name.replace(".", "").isalnum() for name in FILES)

    def test_rows_that_a_run_stores_do_not_start_the_next_one_over(self, tmp_path: Path) -> None:
        for path in ("protokern/a.py", "benchmarks/results/speed.csv", "protokern/configs.csv", "csrc/a.cu"):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text("1")
        first = fingerprint(tmp_path)
        (tmp_path / "benchmarks/results/speed.csv").write_text("2")
        (tmp_path / "protokern/configs.csv").write_text("2")
        assert fingerprint(tmp_path) == first
        (tmp_path / "csrc/a.cu").write_text("2")
        assert fingerprint(tmp_path) != first
