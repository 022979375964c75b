from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from protokern.errors import DataError
from protokern.features import FeatureStore
from protokern.models.base import vectors_of
from protokern.runs.checkpoints import find_resumable, read_checkpoint
from protokern.runs.log import read_log
from protokern.runs.open import load_model
from protokern.train.events import FeatureRecord
from protokern.train.loop import train

from .toy import ToySplits, pool_config, toy_config, toy_run, train_until_stopped

CONFIG = toy_config(backbone="frozen", joint_epochs=3, push_start=2, push_every=2, patience=0, prune=True)
POOL_CONFIG = pool_config(backbone="frozen", joint_epochs=2, hardening_epochs=1, patience=0, prune=True)
CONFIGS = pytest.mark.parametrize("config", [CONFIG, POOL_CONFIG], ids=["protopnet", "protopool"])


def count_images(run) -> list[int]:
    """Grows by the number of images of every call of the backbone."""
    seen: list[int] = []
    run.model.backbone.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    return seen


@functools.cache
def whole_of(model: str) -> dict[str, torch.Tensor]:
    config = {"protopnet": CONFIG, "protopool": POOL_CONFIG}[model]
    with tempfile.TemporaryDirectory() as folder:
        run = toy_run(Path(folder), config)
        torch.set_num_threads(1)
        list(train(run))
        return {name: value.clone() for name, value in run.model.state_dict().items()}


def check_same_end(run) -> None:
    whole, weights = whole_of(run.job.config["model"]["name"]), run.model.state_dict()
    assert weights.keys() == whole.keys()
    assert all(torch.equal(weights[name], value) for name, value in whole.items())


@CONFIGS
def test_the_backbone_sees_every_image_once_and_never_changes(tmp_path, config) -> None:
    run = toy_run(tmp_path, config)
    before = {name: value.clone() for name, value in run.model.backbone.state_dict().items()}
    seen = count_images(run)
    list(train(run))
    assert sum(seen) == 30 + 12 + 9
    assert all(torch.equal(value, before[name]) for name, value in run.model.backbone.state_dict().items())
    check_same_end(run)


def test_afterwards_the_model_takes_images_and_agrees_with_what_was_measured(tmp_path) -> None:
    run = toy_run(tmp_path, CONFIG)
    list(train(run))
    model, _, _ = load_model(tmp_path)
    for trained in (model, run.model.eval()):
        items = [run.job.splits.test[i] for i in range(len(run.job.splits.test))]
        answers = [int(trained(image[None]).logits.argmax()) == label for image, label in items]
        assert sum(answers) / len(answers) == run.progress.results[-1]["test_accuracy"]
    image, patch = int(run.push.image[0]), int(run.push.patch[0])
    stored = torch.cat([vectors_of(model), vectors_of(run.model)]).detach()
    features = model.features(run.job.splits.push[image][0][None]).detach().flatten(2)[0, :, patch]
    assert (stored - features).abs().amax(dim=1).min() < 1e-5


def test_a_frozen_run_is_one_whose_backbone_learns_nothing(tmp_path) -> None:
    """The same weights as with images without augmentation through a backbone at rate 0 with frozen statistics."""
    settings = {"batch_norm": "frozen", "weight_decay": 0.0, "joint_epochs": 1, "last_layer_solver": "compat"}
    frozen = toy_run(tmp_path / "frozen", toy_config(backbone="frozen", **settings))
    list(train(frozen))
    plain = ToySplits()
    plain.train = plain.push
    slow = toy_run(tmp_path / "slow", toy_config(backbone_lr=0.0, **settings), plain)
    list(train(slow))
    for name, value in frozen.model.state_dict().items():
        torch.testing.assert_close(value, slow.model.state_dict()[name], rtol=1e-4, atol=1e-4)


def test_two_runs_share_a_store(tmp_path) -> None:
    runs = [toy_run(tmp_path / name, CONFIG, feature_store=tmp_path / "shared") for name in ("one", "two")]
    seen = [count_images(run) for run in runs]
    for run in runs:
        list(train(run))
        check_same_end(run)
    assert sum(seen[0]) == 51
    assert seen[1] == []
    assert not (tmp_path / "one" / "features").exists()


def test_stored_features_are_those_of_the_plain_backbone_up_to_rounding(tmp_path) -> None:
    run = toy_run(tmp_path, CONFIG)
    list(train(run))
    store = FeatureStore.open(tmp_path / "features" / "test")
    assert store.fingerprint.arithmetic == "fused"
    test = run.job.splits.test
    with torch.no_grad():
        maps = run.model.eval().backbone(torch.stack([test[index][0] for index in range(len(test))]))
    # Rounding of float32 in the few layers of the tiny net.
    torch.testing.assert_close(store.read(range(len(test))), maps, rtol=1e-5, atol=1e-5 * float(maps.abs().max()))


def test_a_stale_store_is_refused_and_kept(tmp_path) -> None:
    list(train(toy_run(tmp_path / "one", CONFIG)))
    features = tmp_path / "one" / "features" / "train" / "features.bin"
    before = features.read_bytes()
    folder = tmp_path / "one" / "features"
    other = toy_run(tmp_path / "two", toy_config(backbone="frozen", seed=1), feature_store=folder)
    with pytest.raises(DataError, match=r"train: is stale: made of other weights of the backbone. Remove"):
        list(train(other))
    assert features.read_bytes() == before


@CONFIGS
@pytest.mark.parametrize("batches", [2, 9])
def test_a_run_stopped_in_an_epoch_ends_with_the_same_bits(tmp_path, config, batches) -> None:
    seen: list[Any] = []
    run = toy_run(tmp_path, config, should_stop=lambda: len(seen) >= batches)
    train_until_stopped(run, seen)
    again = toy_run(tmp_path, config)
    again.resume(read_checkpoint(find_resumable(tmp_path)))
    images = count_images(again)
    list(train(again))
    assert images == []
    check_same_end(again)


@pytest.mark.parametrize("lost", [False, True])
def test_a_run_stopped_while_the_backbone_runs_ends_with_the_same_bits(tmp_path, lost) -> None:
    seen: list[Any] = []
    run = toy_run(tmp_path, CONFIG, should_stop=lambda: len(seen) >= 2)
    train_until_stopped(run, seen, lambda event: isinstance(event, FeatureRecord))
    assert [(record.split, record.done, record.images) for record in seen] == [("train", 30, 30), ("val", 12, 12)]
    if lost:
        shutil.rmtree(tmp_path / "features")
    again = toy_run(tmp_path, CONFIG)
    again.resume(read_checkpoint(find_resumable(tmp_path)))
    images = count_images(again)
    list(train(again))
    assert sum(images) == (51 if lost else 9)
    check_same_end(again)
    assert [line["text"] for line in read_log(again.job.log_path) if line["kind"] == "notice"][1].startswith(
        "the backbone is frozen: all stages read its features of the un-augmented images from"
    )


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16"}, {"precision": "bf16", "mixup": 0.5}], ids=str)
def test_bf16_stores_halve_the_space(tmp_path, settings) -> None:
    run = toy_run(tmp_path, toy_config(backbone="frozen", **settings), feature_precision="bf16")
    list(train(run))
    assert 0 < run.progress.results[-1]["val_loss"] < 10
    assert vectors_of(run.model).dtype == torch.float32
    store = FeatureStore.open(tmp_path / "features" / "train")
    assert store.precision == "bf16"
    assert (tmp_path / "features" / "train" / "features.bin").stat().st_size == 2 * 30 * 128 * 2 * 2
