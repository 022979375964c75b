"""The measures on the page of a run: those that were stored for its weights, and the others on a few images."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from protokern.cli.main import main
from protokern.errors import CheckpointError
from protokern.explain.prototypes import find_prototypes
from protokern.explain.trust import QUICK, collect_trust
from protokern.metrics import Context, measure
from protokern.runs.open import OpenRun, open_run
from tests.cli.pushed_run import PushedRun, make_pool_run, make_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    return make_run(tmp_path_factory.mktemp("trust"))


@pytest.fixture
def run(made: PushedRun, tmp_path: Path) -> OpenRun:
    """A run folder that the test may change."""
    return open_run(shutil.copytree(made.folder, tmp_path / "run"))


def test_every_page_has_the_measures_that_need_no_annotations(made: PushedRun, run: OpenRun) -> None:
    trust = collect_trust(run, made.splits, find_prototypes(run, made.splits))
    assert trust is not None
    assert {one.name for one in trust.results} == set(QUICK) == set(trust.quick)
    assert all(one.left_out is None for one in trust.results)
    assert {one.name for one in trust.random} == {"left_alone", "stability", "concentration"}
    assert (trust.num_images, trust.is_stale) == (8, False)
    by_name = {one.name: one for one in trust.results}
    assert by_name["left_alone"].estimates["grid frame"].images == 8  # all, of eight
    loader = [made.splits.test[index] for index in range(8)]
    images = torch.stack([image for image, _ in loader])
    labels = torch.tensor([label for _, label in loader])
    (wanted,) = measure(run.model, [(images, labels)], 8, only=["concentration"], context=Context())
    for name, number in by_name["concentration"].estimates.items():
        assert number.value == pytest.approx(wanted.estimates[name].value, abs=1e-5)  # batches round differently


def test_what_was_stored_for_these_weights_is_shown_and_not_measured_again(made: PushedRun, run: OpenRun) -> None:
    assert main(["metrics", str(run.folder), "--only", "concentration", "size", "purity"]) == 0
    trust = collect_trust(run, made.splits, None)
    assert trust is not None
    assert [one.name for one in trust.results][:3] == ["concentration", "size", "purity"]
    assert trust.results[2].left_out is not None
    assert set(trust.quick) == set(QUICK) - {"concentration"}
    assert {one.name for one in trust.random} == {"left_alone", "stability", "concentration"}


def test_measures_of_other_weights_are_not_shown(made: PushedRun, run: OpenRun) -> None:
    assert main(["metrics", str(run.folder), "--only", "concentration", "size"]) == 0
    with torch.no_grad():
        next(run.model.last_layer.parameters()).flatten()[0] += 1
    trust = collect_trust(run, made.splits, None)
    assert trust is not None
    assert trust.is_stale
    assert {one.name for one in trust.results} == set(QUICK)


def test_without_data_only_the_model_itself_is_measured(run: OpenRun) -> None:
    trust = collect_trust(run, None, None)
    assert trust is not None
    assert [one.name for one in trust.results] == ["duplicates"]
    assert trust.num_images is None


def test_a_broken_file_is_named(made: PushedRun, run: OpenRun) -> None:
    (run.folder / "measures.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"measures\.json"):
        collect_trust(run, made.splits, None)


def test_a_pool_is_measured_once_its_choices_are_final(tmp_path: Path) -> None:
    soft = make_pool_run(tmp_path / "soft", is_pushed=False)
    assert collect_trust(open_run(soft.folder), soft.splits, None) is None


@pytest.mark.filterwarnings("ignore:model. no class uses the prototypes")
def test_a_pool_has_its_measures(tmp_path: Path) -> None:
    pool = make_pool_run(tmp_path)
    trust = collect_trust(open_run(pool.folder), pool.splits, None)
    assert trust is not None
    assert {one.name for one in trust.results if one.left_out is None} == set(QUICK)
