"""Runs whose prototypes cannot be edited: their pages answer every question, and say why nothing can be changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from protokern.config import config_to_dict, config_to_toml, parse_config
from protokern.data import open_splits
from protokern.explain.prototypes import write_prototypes
from protokern.models.build import build_model
from protokern.push import push_prototypes
from protokern.runs.checkpoints import CheckpointState, save_checkpoint
from tests.app.served import serving
from tests.cli.pushed_run import SIZE, write_photos

MODELS = {
    "ProtoPool": {"name": "protopool", "num_prototypes": 6, "slots_per_class": 3, "prototype_dim": 8},
    "ProtoTree": {"name": "prototree", "depth": 2, "prototype_dim": 8},
    "PIPNet": {"name": "pipnet", "num_prototypes": 8},
    "TesNet": {"name": "tesnet", "prototypes_per_class": 3, "prototype_dim": 8},
}
GETS = (
    "",
    "state",
    "images",
    "images?split=train&class=1&verdict=wrong&order=sure",
    "images?split=val&verdict=right&order=unsure",
    "near?prototype=1",
    "explain?image=test/0",
    "explain?image=train/1&frame=sufficient",
)


def make_run(root: Path, table: dict[str, object]) -> Path:
    data, folder = root / "photos", root / "run"
    write_photos(data)
    folder.mkdir()
    settings = {"path": str(data), "image_size": SIZE, "val_fraction": 0.34, "cache": "none"}
    config = parse_config({"model": {"backbone": "tiny", "weights": "none", **table}, "data": settings})
    splits = open_splits(data, image_size=SIZE, val_fraction=0.34)
    torch.manual_seed(1)
    model = build_model(config.model, 2, SIZE).eval()
    if not model.is_hard:
        model.harden()
    push = push_prototypes(model, DataLoader(splits.push, batch_size=4)) if model.pushes else None
    stage = "last_layer" if push is None else "push"
    state = CheckpointState(
        config=config_to_dict(config), classes=tuple(splits.classes), stage=stage, epoch=1, push=push
    )
    save_checkpoint(folder, f"{stage}-1", model, state)
    (folder / "run.toml").write_text(config_to_toml(config, {"protokern": "0.1.0"}))
    if push is not None:
        write_prototypes(folder, model, splits, push)
    return folder


@pytest.mark.filterwarnings("ignore:model. no class uses the prototypes")
@pytest.mark.parametrize("name", MODELS)
def test_other_models_are_asked_and_not_edited(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, MODELS[name])
    with serving(run) as served:
        for path in GETS:
            assert served.get(path).status == 200, path
        for window in ([0, 0, 1, 1], [1, 0, 2, 2]):
            reply = served.post("window", {"image": "test/0", "window": window})
            assert reply.status == 200
            assert len(reply.json["rows"]) == 8
        why = served.get("state").json["state"]["refusal"]
        assert f"must be of a model whose prototypes are patches with weights, a ProtoPNet; got a {name}." in why
        for reply in (
            served.edit("forbid", prototype=0),
            served.edit("undo", revision=0),
            served.post("save", {"name": "new"}),
        ):
            assert (reply.status, reply.error) == (400, why)
    assert not (run / "edits.jsonl").exists()
