"""CaBRNet 1.2: folders with `model_state.pth` and `model_arch.yml`, of all its models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from protokern.errors import CheckpointError
from protokern.interop.module_state import NetworkState

from . import pipnet, protopool, prototree
from .cabrnet_files import DATA, images_of, table_at, text_at
from .converted import (
    AddOn,
    Converted,
    Source,
    System,
    as_prototypes,
    check_prototypes,
    log_similarity,
    squared_distances,
)

STATE, ARCH = "model_state.pth", "model_arch.yml"
_PLACE = "extractor.convnet."
_EARLIER = ("layer1", "layer2", "layer3")
_TREE, _LEAF = "classifier.tree.", "._relative_distribution"
_DROPPED = ("classifier.similarity_layer._summation_kernel", "classifier._root_prob", "classifier._root_greedy_path")
# The stride of a map, and the fewest and the most input channels of the layers that halve the one before to it.
_HALVING = {
    "convnext": ((8, 96, 96), (16, 192, 192), (32, 384, 384)),
    "basic": ((8, 64, 64), (16, 128, 128), (32, 256, 256)),
    "bottleneck": ((8, 128, 256), (16, 256, 512), (32, 512, 1024)),
}


class Similarity(NamedTuple):
    """A similarity as protokern names it."""

    activation: str
    metric: str
    epsilon: float


def recognises(source: Source) -> bool:
    """Whether a file has CaBRNet's tensors."""
    return any(name.startswith("extractor.convnet.") for name in source.state.tensors)


def convert(source: Source) -> Converted:
    """The network as the model of protokern that it is.

    Raises:
        CheckpointError: the model, its similarity or its layers are of a form that protokern does not have.
        MissingPackageError: pyyaml is not installed.
    """
    arch = source.arch
    if arch is None:
        raise CheckpointError(
            f"{source.state.path}: must have CaBRNet's {ARCH} beside it, which says how the net answers."
        )
    name = text_at(arch, "top_arch", "name")
    if name not in _MODELS:
        raise CheckpointError(
            f"{source.state.path}: must be a model of CaBRNet that protokern has: {', '.join(_MODELS)}; got {name!r}."
        )
    made = _MODELS[name](source, arch)
    size, normalisation = images_of(source.folder)
    dropped = [one for one in _DROPPED if one in source.state.tensors]
    notes = (*made.notes, f"dropped: {', '.join(dropped)}") if dropped else made.notes
    notes = (*notes, f"images are normalised as {DATA} says") if normalisation is not None else notes
    stage = _stage_of(source, arch)
    return Converted(
        settings=made.settings if stage is None else {**made.settings, "backbone_stage": stage},
        num_classes=made.num_classes,
        backbone=made.backbone,
        place=_PLACE,
        head=made.head,
        plain=made.plain,
        notes=notes,
        image_size=size,
        backbone_name=text_at(arch, "extractor", "backbone", "arch").lower() or None,
        stride=_stride_of(source, arch),
        without_relu=_ends_before_relu(source, arch),
        normalisation=normalisation,
        kept=made.kept,
    )


def _pipeline(source: Source, arch: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one pipeline of the extractor: its layer and its add-on. Older files write them beside the backbone."""
    extractor = table_at(arch, "extractor")
    if "layer" in table_at(extractor, "backbone"):
        return {"source_layer": extractor["backbone"]["layer"], "add_on": extractor.get("add_on")}
    pipelines = [value for name, value in extractor.items() if name != "backbone" and isinstance(value, Mapping)]
    if len(pipelines) != 1:
        raise CheckpointError(
            f"{source.state.path}: must have one pipeline in its extractor; got {len(pipelines)}, and protokern has "
            "no model with several."
        )
    return pipelines[0]


def _add_on(source: Source, arch: Mapping[str, Any]) -> AddOn:
    """The add-on layers by their names in the YAML, in its order.

    Raises:
        CheckpointError: they are not 1x1 convolutions with ReLUs between and a sigmoid or nothing at the end.
    """
    state = source.state
    layers = [
        (name, value) for name, value in table_at(_pipeline(source, arch), "add_on").items() if name != "init_mode"
    ]
    kinds = [text_at(value, "type") for _, value in layers]
    names = [f"extractor.add_on.{name}" for name, value in layers if text_at(value, "type") == "Conv2d"]
    weights = [(state.get(f"{name}.weight"), state.tensors.get(f"{name}.bias")) for name in names]
    count = len(names)
    squashed = ["Conv2d", "ReLU"] * (count - 1) + ["Conv2d", "Sigmoid"]
    form = {(): "", ("Conv2d",): "linear", tuple(squashed): "squashed"}.get(tuple(kinds))
    if form is None or (count == 2 and weights[0][0].shape[0] != weights[1][0].shape[0]):
        raise CheckpointError(
            f"{state.path}: must have add-on layers of 1x1 convolutions with ReLUs between and a sigmoid at the end; "
            f"got {', '.join(kinds)}."
        )
    if form == "linear" and weights[0][1] is None:
        raise CheckpointError(f"{state.path}: must have a bias in an add-on layer without sigmoid; it has none.")
    if form in ("", "linear"):
        return AddOn(form, weights)
    single = "single" if weights[0][1] is not None else "single_no_bias"
    return AddOn({1: single, 2: "regular"}.get(count, "bottleneck"), weights)


def _similarity(source: Source, arch: Mapping[str, Any], *, wanted: tuple[str, ...], default: str) -> Similarity:
    """What the YAML says of the similarity."""
    name = text_at(arch, "similarity", "name") or default
    params = table_at(arch, "similarity", "params")
    base = name.removeprefix("Legacy")
    if base not in wanted:
        raise CheckpointError(
            f"{source.state.path}: must have one of the similarities {', '.join(wanted)}; got {name!r}, which "
            "protokern does not have."
        )
    if base == "FusedSimilarity":
        return Similarity(
            str(params.get("activation", "log")),
            str(params.get("metric", "sqeuclidean")),
            float(params.get("stability_factor", 1e-4)),
        )
    if base == "CosineSimilarity":
        return Similarity("cosine", "cosine", 1e-4)
    if base == "ProtoTreeSimilarity":
        if float(params.get("stability_factor", 1e-14)) != 1e-14:
            raise CheckpointError(f"{source.state.path}: stability_factor must be 1e-14 in a ProtoTree; got another.")
        return Similarity("exp_root", "sqeuclidean", 1e-4)
    is_legacy = table_at(arch, "classifier", "params").get("compatibility_mode") is True
    return Similarity("log", "sqeuclidean", 1e-4 if is_legacy else float(params.get("stability_factor", 1e-4)))


def _similarities(features: Tensor, vectors: Tensor, similarity: Similarity) -> Tensor:
    """Of the nearest patches, (B, P), in full precision."""
    if similarity.metric == "cosine":
        directions = F.normalize(vectors.to(features), dim=1)
        return F.conv2d(F.normalize(features, dim=1), directions).amax((2, 3))
    nearest = squared_distances(features, vectors).amin((2, 3))
    return log_similarity(nearest, similarity.epsilon)


def _protopnet(source: Source, arch: Mapping[str, Any]) -> Converted:
    state = source.state
    vectors = check_prototypes(state, "classifier.prototypes")
    weight, identity = state.get("classifier.last_layer.weight"), state.get("classifier.proto_class_map")
    names = ("ProtoPNetSimilarity", "CosineSimilarity", "FusedSimilarity")
    similarity = _similarity(source, arch, wanted=names, default=names[0])
    if similarity[:2] not in (("log", "sqeuclidean"), ("cosine", "cosine")):
        raise CheckpointError(f"{state.path}: must have a log or a cosine similarity; got {similarity.activation!r}.")
    add_on = _add_on(source, arch)
    is_kept = (identity > 0).any(dim=1) | (weight != 0).any(dim=0)
    kept = is_kept.nonzero().flatten()
    num_classes = len(weight)

    def plain(maps: Tensor) -> Tensor:
        activations = _similarities(add_on(maps), vectors, similarity)
        return F.linear(activations, weight.to(activations))

    removed = len(vectors) - len(kept)
    return Converted(
        settings={
            "name": "protopnet",
            "prototype_dim": vectors.shape[1],
            "add_on_layers": add_on.kind,
            "activation": similarity.activation,
            "metric": similarity.metric,
            "epsilon": similarity.epsilon,
            "prototypes_per_class": -(-len(kept) // num_classes),
        },
        num_classes=num_classes,
        backbone=state.below(_PLACE),
        head={
            **add_on.named(),
            "prototype_layer.prototypes": as_prototypes(vectors[kept]),
            "class_identity": identity[kept].float(),
            "last_layer.weight": weight[:, kept],
        },
        plain=plain,
        notes=(f"dropped: {removed} prototypes that were pruned in place",) if removed else (),
        kept=tuple(kept.tolist()) if removed else None,
    )


def _protopool(source: Source, arch: Mapping[str, Any]) -> Converted:
    state = source.state
    similarity = _similarity(
        source, arch, wanted=("ProtoPNetSimilarity", "FusedSimilarity"), default="ProtoPNetSimilarity"
    )
    if similarity[:2] != ("log", "sqeuclidean"):
        raise CheckpointError(f"{state.path}: must have a log similarity; got {similarity.activation!r}.")
    return protopool.pool(
        source,
        vectors=check_prototypes(state, "classifier.prototypes"),
        presence=state.get("classifier.proto_slot_map"),
        weight=state.get("classifier.last_layer.weight"),
        add_on=_add_on(source, arch),
        epsilon=similarity.epsilon,
        place=_PLACE,
        notes=(),
    )


def _prototree(source: Source, arch: Mapping[str, Any]) -> Converted:
    state = source.state
    _similarity(source, arch, wanted=("ProtoTreeSimilarity",), default="ProtoTreeSimilarity")
    is_log = [table_at(arch, part, "params").get("log_probabilities") is True for part in ("classifier", "similarity")]
    if is_log[0] != is_log[1]:
        raise CheckpointError(
            f"{state.path}: log_probabilities must be the same in classifier and similarity; got {is_log[0]} and "
            f"{is_log[1]}, with which CaBRNet takes probabilities for their logarithms."
        )
    named = {
        name.removeprefix(_TREE).removesuffix(_LEAF): value.flatten()
        for name, value in state.tensors.items()
        if name.startswith(_TREE) and name.endswith(_LEAF)
    }
    leaves = {_steps(name): value for name, value in named.items()}
    table = state.extra.get("_extra_state")
    rows = _rows_of_table(state, table) if isinstance(table, dict) else _rows_in_order(list(leaves))
    where = "the file says" if isinstance(table, dict) else "CaBRNet numbers those of a whole tree"
    return prototree.tree(
        state,
        leaves=leaves,
        rows=rows,
        vectors=check_prototypes(state, "classifier.prototypes"),
        add_on=_add_on(source, arch),
        place=_PLACE,
        notes=(f"the prototypes of the branches are as {where}",),
    )


def _steps(name: str) -> tuple[str, ...]:
    """The path to a leaf from the names of the modules, such as "branch_0_child_nsim.branch_1_child_sim"."""
    return tuple("l" if one.endswith("_nsim") else "r" for one in name.split("."))


def _rows_of_table(state: NetworkState, table: dict[Any, Any]) -> dict[tuple[str, ...], int]:
    """The rows of the prototypes from CaBRNet's description of the tree."""
    rows: dict[tuple[str, ...], int] = {}
    waiting: list[tuple[tuple[str, ...], Any]] = [((), table)]
    while waiting:
        path, node = waiting.pop()
        children = node.get("children") if isinstance(node, dict) else None
        if not children:
            continue
        numbers = node.get("proto_idxs")
        is_branch = isinstance(children, list) and isinstance(numbers, list) and (len(children), len(numbers)) == (2, 1)
        if not is_branch or type(numbers[0]) is not int or len(path) >= prototree.MOST_LEVELS:
            raise CheckpointError(f"{state.path}: must describe a binary tree; _extra_state does not.")
        rows[path] = numbers[0]
        waiting += [((*path, step), child) for step, child in zip("lr", children, strict=True)]
    return rows


def _rows_in_order(paths: list[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
    """CaBRNet's own numbers of a whole tree: a branch before those below it, the side "absent" first."""
    branches = sorted({path[:level] for path in paths for level in range(len(path))})
    return {branch: number for number, branch in enumerate(branches)}


def _pipnet(source: Source, arch: Mapping[str, Any]) -> Converted:
    state = source.state
    return pipnet.sheet(
        state,
        weight=state.get("classifier.last_layer.weight"),
        bias=state.tensors.get("classifier.last_layer.bias"),
        power=state.get("classifier.normalization_multiplier"),
        add_on=_add_on(source, arch),
        place=_PLACE,
        stride=None,
        notes=("CaBRNet's PIP-Net counts every presence, so no image is without an answer (smallest_presence = 0)",),
        least_presence=0.0,
    )


def _stride_of(source: Source, arch: Mapping[str, Any]) -> int | None:
    """The stride at which `stride_divider` ends the net; None: it is not there.

    Raises:
        CheckpointError: it leaves a net that protokern does not have.
    """
    divider = table_at(arch, "extractor", "backbone", "postprocess", "stride_divider")
    if not divider:
        return None
    name = text_at(arch, "extractor", "backbone", "arch").lower()
    kind = "basic" if name in ("resnet18", "resnet34") else "bottleneck" if name.startswith("resnet") else "convnext"
    least = divider.get("min_channels")
    if divider.get("ratio") == 2 and isinstance(least, int) and (kind != "convnext" or name == "convnext_tiny"):
        halved = [stride for stride, fewest, _ in _HALVING[kind] if fewest > least]
        if halved == [stride for stride, _, most in _HALVING[kind] if most > least]:
            return min(halved) // 2 if halved else None
    raise CheckpointError(
        f"{source.state.path}: must have a stride_divider that takes whole stages of a ResNet or of convnext_tiny; got "
        f"{dict(divider)} for {name!r}."
    )


def _stage_of(source: Source, arch: Mapping[str, Any]) -> int | None:
    """The stage of a ResNet that gives the map, if it is not the last one."""
    layer = str(_pipeline(source, arch).get("source_layer", ""))
    is_earlier = text_at(arch, "extractor", "backbone", "arch").startswith("resnet") and layer in _EARLIER
    return int(layer.removeprefix("layer")) if is_earlier else None


def _ends_before_relu(source: Source, arch: Mapping[str, Any]) -> bool:
    """Whether the map of a DenseNet is taken before the ReLU that ends it."""
    layer = str(_pipeline(source, arch).get("source_layer", ""))
    return text_at(arch, "extractor", "backbone", "arch").startswith("densenet") and layer in (
        "features",
        "features.norm5",
    )


_MODELS: dict[str, Callable[[Source, Mapping[str, Any]], Converted]] = {
    "ProtoPNet": _protopnet,
    "ProtoPool": _protopool,
    "ProtoTree": _prototree,
    "PIPNet": _pipnet,
}
ROW = System("cabrnet", "CaBRNet", recognises, convert)
