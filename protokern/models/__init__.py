"""Whole prototype nets, one file per paper. No training, no files."""

from __future__ import annotations

from protokern.models.base import ModelOutput, PrototypeModel
from protokern.models.protopnet import ProtoPNet
from protokern.models.protopool import ProtoPool, ProtoPoolOutput
from protokern.models.registry import MODELS

__all__ = ["MODELS", "ModelOutput", "ProtoPNet", "ProtoPool", "ProtoPoolOutput", "PrototypeModel"]
