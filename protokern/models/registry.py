"""Models by the name that configs and checkpoints use."""

from __future__ import annotations

from protokern.models.base import PrototypeModel
from protokern.models.pipnet import PIPNet
from protokern.models.protopnet import ProtoPNet
from protokern.models.protopool import ProtoPool
from protokern.models.prototree import ProtoTree
from protokern.models.tesnet import TesNet

MODELS: dict[str, type[PrototypeModel]] = {
    "protopnet": ProtoPNet,
    "protopool": ProtoPool,
    "prototree": ProtoTree,
    "tesnet": TesNet,
    "pipnet": PIPNet,
}
