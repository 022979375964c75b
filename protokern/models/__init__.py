"""Whole prototype nets, one file per paper. No training, no files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protokern.deferred import defer

if TYPE_CHECKING:
    from protokern.models.base import ModelOutput, PrototypeModel
    from protokern.models.ensemble import Ensemble, EnsembleOutput
    from protokern.models.pipnet import PIPNet, PIPNetOutput
    from protokern.models.protopnet import ProtoPNet
    from protokern.models.protopool import ProtoPool, ProtoPoolOutput
    from protokern.models.prototree import ProtoTree, ProtoTreeOutput
    from protokern.models.registry import MODELS
    from protokern.models.tesnet import TesNet, TesNetOutput

__all__ = [
    "MODELS",
    "Ensemble",
    "EnsembleOutput",
    "ModelOutput",
    "PIPNet",
    "PIPNetOutput",
    "ProtoPNet",
    "ProtoPool",
    "ProtoPoolOutput",
    "ProtoTree",
    "ProtoTreeOutput",
    "PrototypeModel",
    "TesNet",
    "TesNetOutput",
]

__getattr__ = defer(
    __name__,
    {
        "MODELS": "protokern.models.registry",
        "Ensemble": "protokern.models.ensemble",
        "EnsembleOutput": "protokern.models.ensemble",
        "ModelOutput": "protokern.models.base",
        "PIPNet": "protokern.models.pipnet",
        "PIPNetOutput": "protokern.models.pipnet",
        "ProtoPNet": "protokern.models.protopnet",
        "ProtoPool": "protokern.models.protopool",
        "ProtoPoolOutput": "protokern.models.protopool",
        "ProtoTree": "protokern.models.prototree",
        "ProtoTreeOutput": "protokern.models.prototree",
        "PrototypeModel": "protokern.models.base",
        "TesNet": "protokern.models.tesnet",
        "TesNetOutput": "protokern.models.tesnet",
    },
)
