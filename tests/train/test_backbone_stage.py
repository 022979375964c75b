"""Runs on an earlier stage of their backbone, and with salience: stores, checkpoints, pushes and refusals."""

from __future__ import annotations

import pytest
import torch

from protokern.config.train import TrainConfig
from protokern.errors import CheckpointError, ConfigError, DataError
from protokern.features import FeatureStore
from protokern.models.base import vectors_of
from protokern.models.build import build_model
from protokern.runs.open import load_model
from protokern.train.loop import train
from protokern.train.optimizers import freeze

from .toy import CLASSES, NET, SIZE, toy_config, toy_run

COSINE = {"metric": "cosine", "activation": "cosine", "add_on_layers": "linear", "salience": 1.0}
SHORT = {"warm_epochs": 1, "joint_epochs": 1, "patience": 0}


@pytest.mark.parametrize("backbone", ["frozen", "train"])
def test_a_run_on_an_earlier_stage_with_salience_is_opened_as_it_was(tmp_path, backbone) -> None:
    run = toy_run(tmp_path, toy_config(model={**NET, **COSINE, "backbone_stage": 1}, backbone=backbone, **SHORT))
    list(train(run))
    model, _, _ = load_model(tmp_path)
    images = torch.stack([run.job.splits.test[i][0] for i in range(len(run.job.splits.test))])
    with torch.no_grad():
        features, found = model.features(images), model(images)
        assert features.shape == (9, 8, SIZE // 4, SIZE // 4)
        assert torch.equal(found.logits, run.model.eval()(images).logits)
    for prototype, image, patch in zip(vectors_of(run.model).detach(), run.push.image, run.push.patch, strict=True):
        with torch.no_grad():
            seen = run.model.features(run.job.splits.push[int(image)][0][None])[0].flatten(1)[:, patch]
            torch.testing.assert_close(prototype, seen, rtol=1e-4, atol=1e-5)
            # What a person reads as the similarity of a prototype to its own source: the salience of that patch.
            maps = run.model.backbone(run.job.splits.push[int(image)][0][None])[0].flatten(1).norm(dim=0)
            torch.testing.assert_close(prototype.norm(), maps[patch] / maps.max(), rtol=1e-4, atol=1e-5)
    if backbone == "frozen":
        assert FeatureStore.open(tmp_path / "features" / "train").read([0]).shape == (1, 64, SIZE // 4, SIZE // 4)


def test_a_store_of_another_stage_is_refused(tmp_path) -> None:
    list(train(toy_run(tmp_path / "one", toy_config(model={**NET, "backbone_stage": 1}, backbone="frozen", **SHORT))))
    config = toy_config(model={**NET, "backbone_stage": 0}, backbone="frozen", **SHORT)
    other = toy_run(tmp_path / "two", config, feature_store=tmp_path / "one" / "features")
    with pytest.raises(DataError, match=r"train: is stale: made of other weights of the backbone. Remove"):
        list(train(other))


def test_layers_after_the_stage_are_no_layers_to_freeze() -> None:
    model = build_model(toy_config(model={**NET, "backbone_stage": 0}).model, len(CLASSES), SIZE)
    freeze(model, "joint", TrainConfig(frozen_layers=("body.0",)))
    with pytest.raises(ConfigError, match=r"train\.frozen_layers: must name submodules of the backbone; got 'body\.9'"):
        freeze(model, "joint", TrainConfig(frozen_layers=("body.9",)))


def test_a_stage_that_the_backbone_lacks_is_refused_by_its_key() -> None:
    with pytest.raises(ConfigError, match=r"^backbone_stage: must be a stage of backbone 'tiny': 0 \(stride 2"):
        build_model(toy_config(model={**NET, "backbone_stage": 3}).model, len(CLASSES), SIZE)


def test_weights_of_another_stage_are_no_checkpoint_of_this_one(tmp_path) -> None:
    run = toy_run(tmp_path, toy_config(model={**NET, "backbone_stage": 1}, **SHORT))
    list(train(run))
    run_file = next(tmp_path.glob("checkpoints/*/state.json"))
    run_file.write_text(run_file.read_text().replace('"backbone_stage": 1', '"backbone_stage": 0'))
    with pytest.raises(CheckpointError):
        load_model(run_file.parent)
