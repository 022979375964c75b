"""What is special about training a PIP-Net: two views, phases, a sheet that shrinks, exemplars instead of a push."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from protokern.errors import ConfigError
from protokern.push import push_prototypes
from protokern.runs.checkpoints import find_resumable, read_checkpoint
from protokern.runs.log import read_log
from protokern.train.checks import check_settings
from protokern.train.events import StepBegins
from protokern.train.loop import train

from .toy import Squares, ToySplits, toy_config, toy_run

NET = {"name": "pipnet", "backbone": "tiny", "num_prototypes": 12, "pretrain_epochs": 1, "sheet_epochs": 1}


class TwoViews(Squares):
    """Each item twice, with its own noise."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = super().__getitem__(index)
        generator = torch.Generator().manual_seed(7000 * self.epoch + index)
        other = image + 0.05 * torch.rand(image.shape, generator=generator)
        return torch.stack([image, other]), label


def splits() -> ToySplits:
    return ToySplits(train=TwoViews(30, seed=1, augmented=True))


def config(**settings):
    model = NET | settings.pop("model", {})
    return toy_config(model=model, **{"add_on_lr": 1e-2, "backbone_lr": 1e-2, **settings})


def test_all_phases_are_walked_and_exemplars_are_found(tmp_path) -> None:
    run = toy_run(tmp_path, config(joint_epochs=14, model={"shrink": 0.03}, prune=True), splits())
    list(train(run))
    log = read_log(run.job.log_path)
    epochs = [line for line in log if line["kind"] == "epoch"]
    assert [line["stage"] for line in epochs] == ["pretrain", "sheet", "warm", *["joint"] * 14]
    assert epochs[0]["terms"].keys() == {"alignment", "presence"}
    assert epochs[1]["terms"].keys() == {"cross_entropy"}
    assert epochs[2]["terms"].keys() == {"alignment", "presence", "cross_entropy"}
    assert epochs[1]["learning_rates"].keys() == {"last_layer"}
    assert epochs[0]["learning_rates"].keys() == {"backbone", "add_on_layers"}
    assert epochs[-1]["val_accuracy"] >= 0.75
    stages = [line for line in log if line["kind"] == "stage"]
    assert [line["stage"] for line in stages] == ["exemplars", "prune"]
    found = stages[0]["details"]
    assert found["sparsity"] > 0.3
    assert stages[1]["num_prototypes"] == 12 - stages[1]["details"]["removed"] < 12
    assert run.push is not None
    assert len(run.push.image) == run.model.num_prototypes
    features = run.model.eval().features(run.inputs.push[int(run.push.image[0])][0][None])
    pool = run.model.prototype_layer(features)
    assert int(pool.patch[0, 0]) == int(run.push.patch[0])
    torch.testing.assert_close(pool.min_distance[0, 0], run.push.distance[0], rtol=1e-4, atol=1e-5)


def test_the_pre_training_moves_the_net_and_not_the_sheet_and_early_layers_wait(tmp_path) -> None:
    settings = config(joint_epochs=1, model={"early_layers": ["body.0"]})
    run = toy_run(tmp_path, settings, splits())
    names = ("backbone.body.0.weight", "backbone.body.3.weight", "add_on_layers.0.weight", "last_layer.weight")
    states = []
    for event in train(run):
        if isinstance(event, StepBegins):
            states.append({name: run.model.state_dict()[name].clone() for name in names})
    states.append({name: run.model.state_dict()[name] for name in names})
    moved = [[not torch.equal(after[name], before[name]) for name in names] for before, after in pairwise(states)]
    pretrain, sheet, warm, joint = moved[:4]
    assert pretrain == [False, True, True, False]
    assert sheet == [False, False, False, True]
    assert warm == [False, True, True, True]
    assert joint == [True, True, True, True]


def test_a_run_that_is_stopped_in_an_epoch_resumes_to_the_same_weights(tmp_path) -> None:
    settings = config(joint_epochs=1)
    whole = toy_run(tmp_path / "whole", settings, splits())
    list(train(whole))
    asked = {"stop": False}
    part = toy_run(tmp_path / "part", settings, splits(), should_stop=lambda: asked["stop"])
    for event in train(part):
        asked["stop"] = getattr(event, "batch", 0) == 2 and event.stage == "pretrain"
    again = toy_run(tmp_path / "part", settings, splits())
    checkpoint = find_resumable(tmp_path / "part")
    assert checkpoint is not None
    assert checkpoint.name == "pretrain-0-batch-2"
    again.resume(read_checkpoint(checkpoint))
    list(train(again))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "frozen"}, "train.backbone: must be \"train\" for a PIPNet, which sees 2 changed copies"),
        ({"mixup": 0.5}, "train.mixup: must be 0 for a PIPNet"),
        ({"accumulation": 2}, "train.accumulation: must be 1 for a PIPNet, whose loss is one of the whole"),
        ({"batch_size": 1}, "train.batch_size: must be at least 2 for a PIPNet"),
        ({"prototype_start": "patches"}, "train.prototype_start: must be \"random\" for a PIPNet, whose prototypes"),
        ({"live_epochs": 1}, "train.live_epochs: must be 0 for a PIPNet"),
        ({"model": {"early_layers": ["body.x"]}}, "model.early_layers: must name submodules of the backbone; got"),
    ],
)  # fmt: skip
def test_settings_that_it_cannot_be_trained_with_are_refused_in_one_line(tmp_path, settings, message) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        list(train(toy_run(tmp_path, config(**settings), splits())))
    assert "\n" not in str(error.value)


def test_channels_cannot_be_pushed(tmp_path) -> None:
    run = toy_run(tmp_path, config())
    with pytest.raises(ValueError, match="model: must have prototypes that are vectors; those of a PIPNet are"):
        push_prototypes(run.model, [])


def test_several_processes_are_refused_in_one_line(tmp_path) -> None:
    run = toy_run(tmp_path, config())
    with pytest.raises(ConfigError, match="must be trained in one process for a PIPNet, whose loss is one of"):
        check_settings(run.model, run.job.train, 30, SimpleNamespace(size=2))
