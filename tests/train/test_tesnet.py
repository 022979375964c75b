"""What is special about training a TesNet: its prototypes have unit length after every step and every stage."""

from __future__ import annotations

import pytest
import torch

from protokern.models.base import vectors_of
from protokern.runs.log import read_log
from protokern.train.events import BatchDone
from protokern.train.loop import train

from .toy import TESNET, toy_config, toy_run


@pytest.mark.parametrize("accumulation", [1, 2])
def test_prototypes_have_unit_length_after_every_step_and_the_push(tmp_path, accumulation) -> None:
    config = toy_config(
        model=TESNET, joint_epochs=3, patience=0, accumulation=accumulation, batch_norm="frozen", live_epochs=1
    )
    run = toy_run(tmp_path, config)
    steps = 0
    for event in train(run):
        if isinstance(event, BatchDone):
            steps += 1
            length = vectors_of(run.model).detach().norm(dim=1)
            torch.testing.assert_close(length, torch.ones_like(length))
    assert steps > 10
    length = vectors_of(run.model).detach().norm(dim=1)
    torch.testing.assert_close(length, torch.ones_like(length))
    stages = {line["stage"]: line for line in read_log(run.job.log_path) if line["kind"] == "stage"}
    details = stages["push"]["details"]
    assert set(details) == {"mean_projection", "without_patch"}
    assert details["mean_projection"] > 0
    assert details["without_patch"] == 0


def test_every_pushed_prototype_is_the_direction_of_its_patch(tmp_path) -> None:
    run = toy_run(tmp_path, toy_config(model=TESNET, joint_epochs=3, patience=0))
    list(train(run))
    push, model = run.push, run.model.eval()
    assert push is not None
    with torch.no_grad():
        images = torch.stack([run.inputs.push[int(image)][0] for image in push.image])
        features = model.features(images)
    rows = features.flatten(2)[torch.arange(len(images)), :, push.patch]  # (P, D)
    torch.testing.assert_close(vectors_of(model).detach(), rows / rows.norm(dim=1, keepdim=True))
