"""What lies beside an exported model: the pictures of its prototypes, and a table with their sources and weights.

    OUT/prototypes.json          classes, weights, and for every prototype its classes, its source and its picture
    OUT/prototypes/0007-box.png  the training image that prototype 7 is a patch of, with a frame around the patch
    OUT/prototypes/0007-image.png  the same without the frame

With these an explanation needs no more than a runtime and the answers of the model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from protokern.interop.export.source import ExportSource
from protokern.models.prototree import ProtoTree
from protokern.results.prototypes import Prototype
from protokern.runs.prototypes import PrototypeFiles, picture_name

FORMAT = "protokern-export-1"
TABLE, PICTURES = "prototypes.json", "prototypes"
KINDS = ("image", "box")


def picture_names(source: ExportSource) -> tuple[str, ...]:
    """The files in the folder of pictures."""
    return tuple(picture_name(card.index, kind) for card in _shown(source) for kind in KINDS)  # type: ignore[arg-type]


def picture_bytes(files: PrototypeFiles, name: str) -> bytes:
    """A picture as the run has it."""
    return (files.folder / name).read_bytes()


def prototype_table(source: ExportSource) -> dict[str, Any]:
    """The table `prototypes.json`."""
    model = source.model
    return {
        "format": FORMAT,
        "model": source.model_name,
        "classes": list(source.classes),
        "image_size": list(source.image_size),
        # logits = similarity @ weights.T, or of a PIP-Net its scores
        "weights": None if isinstance(model, ProtoTree) else _rounded(model.prototype_weight),
        "bias": None if model.score_bias is None else _rounded(model.score_bias),
        "tree": _tree(model) if isinstance(model, ProtoTree) else None,
        "prototypes": prototype_entries(source),
    }


def prototype_entries(source: ExportSource) -> list[dict[str, Any]]:
    """Every prototype: its classes, the patch that it is, its picture, and its similarity to itself."""
    shown = {card.index for card in _shown(source)}
    own = _similarity_of_copies(source)
    return [
        {
            "index": card.index,
            "classes": [{"class": one.class_index, "name": one.class_name} for one in card.classes],
            "source": None if card.source is None else _source(card),
            "similarity_of_copies": own,
            "picture": f"{PICTURES}/{picture_name(card.index, 'box')}" if card.index in shown else None,
        }
        for card in source.prototypes
    ]


def _source(card: Prototype) -> dict[str, Any]:
    source = card.source
    assert source is not None
    return {
        "image": source.name,
        "patch": list(source.patch),
        "box": list(source.patch_box),
        "receptive_field": list(source.receptive_field_box),
    }


def _similarity_of_copies(source: ExportSource) -> float | None:
    """The similarity at distance 0; None where a copy has another one, by its length or its weight."""
    layer = source.model.prototype_layer
    if layer.vectors is None or not layer.shows_distance or layer.norm_as_weight or source.model.is_focal:
        return None
    zero = layer.vectors.detach().new_zeros(())
    return round(float(layer.activate(zero)), 6)


def _tree(model: ProtoTree) -> dict[str, Any]:
    tree = model.last_layer
    return {
        # (L, P): 1 where a prototype has to be present on the way to the leaf, -1 where absent, 0 where it is not asked
        "path": tree.path.tolist(),
        "leaves": _rounded(model.leaf_probabilities()),  # (L, K)
    }


def _shown(source: ExportSource) -> list[Prototype]:
    return [card for card in source.prototypes if card.picture is not None]


def _rounded(values: Tensor) -> Any:
    """Numbers in as many digits as a float32 has."""
    array = values.detach().double().cpu().numpy()
    return np.array([float(f"{one:.9g}") for one in array.ravel()]).reshape(array.shape).tolist()
