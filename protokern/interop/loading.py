"""Networks of released programs as models of protokern. Nothing of a file is run; docs/interop.md has the systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from protokern.backbones.registry import IMAGENET_MEAN, IMAGENET_STD
from protokern.config import RunConfig, parse_config
from protokern.errors import CheckpointError, ConfigError, ProtokernError
from protokern.evaluate import Evaluation
from protokern.models.base import ModelOutput, PrototypeModel
from protokern.models.build import build_untrained, check_memory
from protokern.push import PushResult

from .backbone_names import settle_backbone
from .module_state import NetworkState, read_network
from .released_nets import SYSTEMS, Converted, Source, cabrnet, find_system, prototree
from .released_nets.cabrnet_files import read_yaml
from .sources import PatchSources, read_sources

_TOLERANCE = 1e-4  # of logits, relative to the largest one if that is above 1
_LEAST_LOG = -30.0  # smaller log probabilities of a tree count as this in the check
_SIZE = 224  # of images, where a file does not say it
# What tensors and settings of the wrong shape or type raise, where nothing says it better.
_UNFIT = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
_MAY_BE_MISSING = ("num_batches_tracked", "assignment.scale")


@dataclass(frozen=True, kw_only=True)
class ReleasedNet:
    """A network of a released program, as a model of protokern.

    Attributes:
        model: in evaluation mode, for images in [0, 1].
        config: the settings of a run with this model.
        classes: class names.
        path: the file that it was read from.
        system: the name of the released program.
        notes: what was inferred, dropped and found, a sentence each.
        difference: largest difference of logits from the formula of the released program, on random features.
        sources: where the prototypes come from, as the released program wrote it; None: it did not.
        push: where they come from among `images`; None: unknown, or they are no patches of these images.
        scores: accuracy on the test images; None without images.
    """

    model: PrototypeModel
    config: RunConfig
    classes: tuple[str, ...]
    path: Path
    system: str
    notes: tuple[str, ...]
    difference: float
    sources: PatchSources | None = None
    push: PushResult | None = None
    scores: Evaluation | None = None

    def __call__(self, images: Tensor) -> ModelOutput:
        """The answers to images (B, 3, Y, X) in [0, 1]."""
        output: ModelOutput = self.model(images)
        return output


def load_released(
    path: Path | str,
    *,
    backbone: str | None = None,
    classes: Sequence[str] | None = None,
    system: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    tree_map: Mapping[str, int] | None = None,
) -> ReleasedNet:
    """Load a network of a released program. The file is read, and nothing in it is run.

    Args:
        path: a file of `torch.save` (a state dict, a whole module, or a dictionary with one of them), a `.safetensors`
            file, or the folder of a ProtoTree or of CaBRNet.
        backbone: a name of `protokern.backbones` or of the released programs, such as "resnet50_inat"; None: found by
            the names and shapes of the tensors.
        classes: class names in the order of the logits; None: "0", "1" and so on.
        system: "protopnet", "tesnet", "protopool", "prototree", "pipnet" or "cabrnet"; None: found by the tensors.
        image_size: side or (Y, X) of the images in pixels; None: as the file says, else 224.
        tree_map: of a ProtoTree: the row of the prototype by the path to its branch, such as "l.r"; None: as the file
            says, or `model.pth` or `tree.pkl` beside it.

    Raises:
        CheckpointError: the file cannot be read, is of no known system, lacks something, or the loaded model does not
            give the logits of the released program's formula.
        ConfigError: an argument is unknown or does not fit.
        MissingPackageError: pyyaml is needed for a folder of CaBRNet.
    """
    names = [row.name for row in SYSTEMS]
    if system is not None and system not in names:
        raise ConfigError(f"--system: must be one of {', '.join(names)}; got {system!r}.")
    state, arch = _read(Path(path))
    source = Source(state=state, folder=state.path.parent, arch=arch, system=system, tree_map=tree_map)
    row = find_system(source)
    try:
        converted = row.convert(source)
        name, tensors, found = settle_backbone(state, converted, backbone)
        config = _configure(converted, name, image_size)
        model = _build(state, converted, config, tensors)
        difference = _check_answers(state, model, converted)
    except ProtokernError:
        raise
    except _UNFIT as error:
        reason = str(error).partition("\n")[0][:120]
        raise CheckpointError(
            f"{state.path}: must be a network of {row.title}; its tensors do not fit each other ({reason})."
        ) from error
    sources, told = read_sources(state.path, len(model.class_identity), converted.kept)
    return ReleasedNet(
        model=model,
        config=config,
        classes=_name_classes(converted.num_classes, classes),
        path=state.path,
        system=row.title,
        notes=(*converted.notes, *found, *told),
        difference=difference,
        sources=sources,
    )


def _read(path: Path) -> tuple[NetworkState, Mapping[str, Any] | None]:
    """The network of a file or folder, and CaBRNet's description beside it."""
    if path.is_dir():
        candidates = [name for name in (cabrnet.STATE, prototree.MODULE) if (path / name).is_file()]
        if not candidates:
            files = sorted(one for one in path.iterdir() if one.suffix in (".pth", ".pt", ".safetensors"))
            advice = f"Give one of its files, such as {files[0].name}." if files else "Give the file of the network."
            raise CheckpointError(
                f"{path}: must be a folder with {cabrnet.STATE} or {prototree.MODULE}; it has neither. {advice}"
            )
        path = path / candidates[0]
    state = read_network(path)
    arch = path.parent / cabrnet.ARCH
    is_cabrnet = any(name.startswith("extractor.") for name in state.tensors)
    return state, read_yaml(arch) if is_cabrnet and arch.is_file() else None


def _configure(converted: Converted, backbone: str, image_size: int | tuple[int, int] | None) -> RunConfig:
    size = image_size or converted.image_size or _SIZE
    # No weights are looked for again where a training with these settings begins anew.
    model = {**converted.settings, "backbone": backbone, "weights": "none"}
    return parse_config({"model": model, "data": {"image_size": size}})


def _build(state: NetworkState, converted: Converted, config: RunConfig, backbone: dict[str, Tensor]) -> PrototypeModel:
    """The model with the tensors of the file.

    Raises:
        CheckpointError: they do not fit.
    """
    mean, std = converted.normalisation or (IMAGENET_MEAN, IMAGENET_STD)
    tensors = {
        **{f"backbone.body.{name}": value for name, value in backbone.items()},
        "backbone.mean": torch.tensor(mean).reshape(1, 3, 1, 1),
        "backbone.std": torch.tensor(std).reshape(1, 3, 1, 1),
        **converted.head,
    }
    check_memory(config.model, converted.num_classes, config.data.image_size)
    model = build_untrained(config.model, converted.num_classes, config.data.image_size)
    model.fit_sizes(tensors)
    own = model.state_dict()
    missing = [name for name in own.keys() - tensors.keys() if not name.endswith(_MAY_BE_MISSING)]
    wrong = [name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape]
    bad = sorted({*missing, *wrong, *(tensors.keys() - own.keys())})
    if bad:
        raise CheckpointError(
            f"{state.path}: must fit a {type(model).__name__} of protokern; {len(bad)} tensors are missing, unknown or "
            f"of another shape (the first: {bad[0]!r}). It is another variant of the released program."
        )
    model.load_state_dict({**own, **tensors})
    return model.eval()


@torch.no_grad()
def _check_answers(state: NetworkState, model: PrototypeModel, converted: Converted) -> float:
    """The largest difference between the model's logits and those of the plain formula, for random maps.

    Raises:
        CheckpointError: it is too large.
    """
    layer = next((one for one in model.add_on_layers if isinstance(one, torch.nn.Conv2d)), None)
    channels = model.prototype_layer.prototype_dim if layer is None else layer.in_channels
    height, width = model.prototype_layer.prototype_size
    generator = torch.Generator().manual_seed(0)
    maps = 3 * torch.randn(2, channels, height + 4, width + 3, generator=generator)
    got, wanted = model(maps, given="maps").logits.double(), converted.plain(maps.double())
    if model.reasons == "path":  # the logarithms of next to nothing say nothing
        got, wanted = got.clamp(min=_LEAST_LOG), wanted.clamp(min=_LEAST_LOG)
    scale = max(1.0, float(wanted.abs().max()))
    difference = float((got - wanted).abs().max()) / scale
    if not difference <= _TOLERANCE:
        raise CheckpointError(
            f"{state.path}: must give the logits of its released program; they differ by {difference:.3g} on random "
            "features. It is another variant of that program."
        )
    return difference


def _name_classes(count: int, names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return tuple(map(str, range(count)))
    if len(names) != count or len({*names}) != count:
        raise ConfigError(f"--classes: must be {count} different names, one for each class; got {len({*names})}.")
    return tuple(names)
