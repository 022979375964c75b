"""Which nets a training can go on with."""

from __future__ import annotations

from typing import Any

import pytest

from protokern.errors import CheckpointError
from protokern.models.build import build_model
from protokern.runs.continued import check_can_go_on
from tests.train.toy import CLASSES, NET, POOL, SIZE, TESNET, TREE, toy_config

PIPNET = {"name": "pipnet", "backbone": "tiny", "num_prototypes": 6}


@pytest.mark.parametrize("model", [NET, TESNET], ids=["protopnet", "tesnet"])
def test_prototypes_that_are_patches_with_weights_can_learn_on(model: dict[str, Any]) -> None:
    check_can_go_on(build_model(toy_config(model=model).model, len(CLASSES), SIZE))


@pytest.mark.parametrize("model", [POOL, TREE, PIPNET], ids=["protopool", "prototree", "pipnet"])
def test_others_are_refused(model: dict[str, Any]) -> None:
    net = build_model(toy_config(model=model).model, len(CLASSES), SIZE)
    with pytest.raises(CheckpointError, match=rf"of a ProtoPNet or a TesNet; got a {type(net).__name__}\."):
        check_can_go_on(net)
