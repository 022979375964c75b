"""Nets of the package timm by name: the feature maps of one stage. timm is optional and imported only here."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from protokern.backbones.names import TIMM_PREFIX
from protokern.backbones.stages import FeatureStage, choose_earlier, choose_stage, weigh
from protokern.backbones.weights import read_state
from protokern.errors import ConfigError, import_optional
from protokern.kernels.salience import lengths_of


class LastStage(nn.Module):
    """A timm net that returns features only, from normalised images (B, C', Y, X) to the (B, C, H, W) of one stage.

    Args:
        net: made with `features_only=True`; gives a list of the stage's map, after that of `salience_stage` if any.
        channels: C, as the net declares it.
        only_size: (Y, X), pixels, of the images of a net that takes one size; None: it takes several.
        stage: index of the earlier stage that the net ends after; None: the last one.
        salience_stage: index of the stage whose lengths weigh the features; None: none.

    Attributes:
        patch_size: side in pixels of a transformer's patch, of which the sides of images are multiples; None: unknown,
            or no such rule.
        made_for: (Y, X), pixels, of the images whose grid a transformer's position embeddings are for; None: there are
            none, or they cannot be resized.
    """

    def __init__(
        self,
        net: nn.Module,
        channels: int,
        only_size: tuple[int, int] | None = None,
        *,
        stage: int | None = None,
        salience_stage: int | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.channels = channels
        self.only_size = only_size
        self.patch_size = _patch_size(net) if only_size is None else None
        self.made_for = None if self.patch_size is None else _configured_size(net)
        self.stage = stage
        self.salience_stage = salience_stage

    def forward(self, images: Tensor) -> Tensor:
        found: list[Tensor] = self.net(images)
        maps = found[-1]
        if maps.ndim != 4 or maps.shape[1] != self.channels:
            raise ValueError(f"timm gives features {tuple(maps.shape)} where (B, {self.channels}, H, W) are wanted")
        return maps if self.salience_stage is None else weigh(maps, lengths_of(found[0]))


def build_timm(
    name: str, *, weights: str | Path, in_channels: int, stage: int | None = None, salience_stage: int | None = None
) -> tuple[LastStage, tuple[float, ...], tuple[float, ...]]:
    """The net, and the mean and standard deviation of its images.

    Args:
        name: "timm/" and a name of timm's, perhaps with a tag of its weights, such as "timm/resnet18.a1_in1k".
        weights: "imagenet" (those that timm has for the name, downloaded once), "none", or the path of a state-dict
            file of the whole classifier.
        in_channels: channels of the images.
        stage: index of a stage that timm lists for the net, negative from the last one; None: the last one.
        salience_stage: an earlier stage whose lengths weigh the features, negative from `stage`; None: none.

    Raises:
        MissingPackageError: timm is not installed.
        ConfigError: timm has no such net, the net gives no feature maps or has no such stage, or the weights are
            unavailable or do not fit.
    """
    timm: Any = import_optional(
        "timm", package="timm", needed_for=f"the backbone {name!r}", install="'protokern[timm]'"
    )
    own_name = name.removeprefix(TIMM_PREFIX)
    if not timm.is_model(own_name):
        close = difflib.get_close_matches(own_name, timm.list_models(), n=3)
        hint = f"Similar: {', '.join(TIMM_PREFIX + one for one in close)}." if close else "See timm.list_models()."
        raise ConfigError(f"backbone: must be a net of timm {timm.__version__}; got {name!r}. {hint}")
    index = weighing = None
    outputs: tuple[int, ...] = (-1,)
    if stage is not None or salience_stage is not None:
        listed = _make(timm, name, "none", in_channels, (-1,)).feature_info.info
        stages = [FeatureStage(entry["reduction"], entry["num_chs"]) for entry in listed]
        last = len(stages) - 1 if stage is None else choose_stage(stage, stages, name=name)
        if last < len(stages) - 1:
            index, outputs = last, (last,)
        if salience_stage is not None:
            weighing = choose_earlier(salience_stage, stages[: last + 1], name=name)
            outputs = (weighing, last)
    net = _make(timm, name, weights, in_channels, outputs)
    if index is not None:
        _drop_unused_blocks(net)
    wanted = timm.data.resolve_model_data_config(net)
    body = LastStage(net, net.feature_info.channels()[-1], _only_size(net), stage=index, salience_stage=weighing)
    return body, tuple(wanted["mean"]), tuple(wanted["std"])


def _make(timm: Any, name: str, weights: str | Path, in_channels: int, stages: tuple[int, ...]) -> Any:
    options: dict[str, Any] = {"pretrained": weights != "none"}
    if weights not in ("none", "imagenet"):
        options["pretrained_cfg_overlay"] = {
            "state_dict": read_state(Path(weights)),
            "source": "",
            "custom_load": False,
        }
    own_name = name.removeprefix(TIMM_PREFIX)
    options |= {"features_only": True, "out_indices": stages, "in_chans": in_channels}
    try:
        return _make_for_any_size(timm, own_name, options) or timm.create_model(own_name, **options)
    except (OSError, RuntimeError, AttributeError, AssertionError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"backbone: timm cannot make the features of {name!r} with weights {str(weights)!r} ({reason}). "
            "Choose another net, give the path of a state-dict file, or use weights 'none'."
        ) from error


def _make_for_any_size(timm: Any, own_name: str, options: dict[str, Any]) -> Any:
    """A transformer made for one size, with position embeddings that are resized to every grid; None: it has no such.

    At the size that it was made for it gives the same maps.
    """
    known = getattr(timm, "get_pretrained_cfg", None)  # old versions of timm lack it
    made_for = None if known is None else known(own_name)
    if made_for is None or not made_for.fixed_input_size:
        return None
    try:
        net = timm.create_model(own_name, **options, dynamic_img_size=True)
    except TypeError:  # its constructor does not take the argument
        return None
    return net if _takes_any_size(net) else None


def _takes_any_size(net: Any) -> bool:
    return bool(getattr(getattr(net, "model", None), "dynamic_img_size", False))


def _patch_size(net: Any) -> int | None:
    """The side of the patches of a transformer that takes any size."""
    if not _takes_any_size(net):
        return None
    return int(net.model.patch_embed.patch_size[0])


def _drop_unused_blocks(net: Any) -> None:
    """Drop the layers that timm's EfficientNets and MobileNets run after the last stage in use."""
    wanted = getattr(net, "_stage_out_idx", None)
    if wanted and isinstance(getattr(net, "blocks", None), nn.Sequential):
        net.blocks = net.blocks[: max(wanted)]


def _only_size(net: nn.Module) -> tuple[int, int] | None:
    """The size that a net of timm was made for, if its configuration says that it is the only one."""
    return None if _takes_any_size(net) else _configured_size(net)


def _configured_size(net: nn.Module) -> tuple[int, int] | None:
    made_for = getattr(net, "pretrained_cfg", None) or {}
    if not made_for.get("fixed_input_size") or len(made_for.get("input_size", ())) != 3:
        return None
    return made_for["input_size"][1], made_for["input_size"][2]
