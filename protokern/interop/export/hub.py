"""Folders in the shape that model hubs have, and models from such folders or from a hub by name.

    OUT/config.json        settings of the model, classes, how images are read; read strictly
    OUT/model.safetensors  weights
    OUT/README.md          the card: data, accuracy, measures of trust, prototypes, licences
    OUT/prototypes.png     a sheet of prototypes, if the run has pictures of them

No pickle is written or read. huggingface_hub is optional and imported only for a name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save as to_safetensors

import protokern
from protokern.errors import ConfigError, ExportError, import_optional
from protokern.interop.export.card import SHEET, sheet_cards, write_card
from protokern.interop.export.source import ExportOptions, ExportSource
from protokern.models.base import PrototypeModel
from protokern.report.grids import write_prototype_grid
from protokern.runs.checkpoints import BROKEN, WEIGHTS_FILE, Checkpoint, CheckpointState, broken_state
from protokern.runs.open import rebuild_model
from protokern.storage.files import read_table, sha256, to_json_bytes, write_folder, write_synced

FORMAT = "protokern-pretrained-1"
CONFIG, CARD = "config.json", "README.md"
# What of the settings of the data says how images are read; the others are of the machine of the training.
_READING = ("image_size", "channels", "grey_range", "max_image_pixels")
_WEIGHTS = ("auto", "imagenet", "none")


class Pretrained(NamedTuple):
    """A model of a folder or a hub, as `protokern.runs.open.load_model` gives that of a run.

    Attributes:
        model: on the CPU, in evaluation mode.
        config: tables of settings: `model`, and of `data` how images are read.
        classes: class names, in the order of the logits.
    """

    model: PrototypeModel
    config: dict[str, Any]
    classes: tuple[str, ...]


def save_pretrained(
    folder: Path | str, model: PrototypeModel, config: Mapping[str, Any], classes: Sequence[str]
) -> None:
    """Write a model as `config.json` and `model.safetensors` into a new folder; `from_pretrained` reads it.

    `protokern export RUN --format hub` adds a card and pictures.

    Args:
        folder: must not exist.
        model: any model of the registry.
        config: tables of settings, as of `load_model`.
        classes: class names, in the order of the logits.

    Raises:
        ExportError: the folder exists.
        CheckpointError: the disk is full or not writable.
    """
    if Path(folder).exists():
        raise ExportError(f"folder: must be a new one; got {folder}, which exists. Give another one.")
    write_folder(Path(folder), _contents(model, config, classes))


def from_pretrained(path_or_name: Path | str, *, revision: str | None = None) -> Pretrained:
    """Read what `save_pretrained` or `protokern export --format hub` wrote.

    Every entry must fit: a file is refused if a setting is unknown, a weight is missing or too much, or the checksum
    differs. Nothing is run, and memory is bounded by the size of the model that the settings describe.

    Args:
        path_or_name: a folder; or "owner/name" of the Hugging Face hub, which needs the package huggingface_hub.
        revision: of a name: a branch, a tag or a commit; None: the newest.

    Raises:
        CheckpointError: a file is missing or broken, or of a newer version.
        ConfigError: it is neither a folder nor a name.
        MissingPackageError: a name was given, and huggingface_hub is not installed.
    """
    folder = Path(path_or_name)
    if not folder.is_dir():
        folder = _download(str(path_or_name), revision)
    table = read_table(folder / CONFIG, FORMAT)
    try:
        state = CheckpointState(
            config={"model": dict(table["model"]), "data": dict(table["data"])},
            classes=tuple(map(str, table["classes"])),
            stage="",
            epoch=0,
        )
        checksum = str(table["sha256"])
    except BROKEN as error:
        raise broken_state(folder, error, CONFIG) from error
    model = rebuild_model(Checkpoint(folder, state, {WEIGHTS_FILE: checksum}))
    return Pretrained(model, state.config, state.classes)


def _download(name: str, revision: str | None) -> Path:
    owner, _, rest = name.partition("/")
    if not owner or not rest or "/" in rest or owner.startswith("."):
        raise ConfigError(f"path_or_name: must be a folder, or owner/name of a hub; got {name!r}. Check the path.")
    hub = import_optional(
        "huggingface_hub", package="huggingface_hub", needed_for="a model by name", install="'protokern[hub]'"
    )
    found = hub.snapshot_download(name, revision=revision, allow_patterns=[CONFIG, WEIGHTS_FILE])
    return Path(found)


def files(source: ExportSource, options: ExportOptions) -> tuple[str, ...]:
    """The names of what `write` writes."""
    return (CONFIG, WEIGHTS_FILE, CARD, *([SHEET] if sheet_cards(source) else []))


def write(source: ExportSource, options: ExportOptions, folder: Path) -> list[str]:
    """Write the files into a folder, load the model from it, and compare all its tensors.

    Raises:
        ExportError: a tensor differs.
    """
    for name, content in _contents(source.model, source.settings, source.classes).items():
        write_synced(folder / name, content)
    cards = sheet_cards(source)
    if cards:
        write_prototype_grid(cards, folder / SHEET)
    write_synced(folder / CARD, write_card(source).encode("utf-8", "replace"))
    loaded, wanted = from_pretrained(folder).model.state_dict(), source.model.state_dict()
    if loaded.keys() != wanted.keys() or not all(loaded[key].equal(wanted[key]) for key in wanted):
        raise ExportError(f"{WEIGHTS_FILE}: must hold the weights of the run; they differ. It was not written.")
    lines = [f"{WEIGHTS_FILE}: loaded again, all {len(wanted)} tensors equal"]
    if not source.license:
        lines.append(f"{CARD}: names no licence; give --license NAME, or fill it in before you publish the folder.")
    return lines


def _contents(model: PrototypeModel, config: Mapping[str, Any], classes: Sequence[str]) -> dict[str, bytes]:
    """The files that `from_pretrained` reads, by name."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    weights = to_safetensors(tensors, {"format": "pt"})  # the key that readers of such files ask for
    settings = dict(config["model"])
    if settings.get("weights") not in _WEIGHTS:  # a path of the machine of the training
        settings["weights"] = "none"
    table = {
        "format": FORMAT,
        "library_name": "protokern",
        "version": protokern.__version__,
        "architectures": [type(model).__name__],
        "num_prototypes": model.num_prototypes,
        "classes": list(classes),
        "model": settings,
        "data": {key: config["data"][key] for key in _READING if key in config["data"]},
        "sha256": sha256(weights),
    }
    return {CONFIG: to_json_bytes(table), WEIGHTS_FILE: weights}
