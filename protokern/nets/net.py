"""A net and what is needed to ask it: its classes, how it reads images, the pictures of its prototypes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from protokern.config import parse_config
from protokern.errors import CheckpointError
from protokern.explain.collect import class_slots, scoring_rows, tree_nodes
from protokern.explain.ensemble import describe_together, explain_together, member_files
from protokern.explain.framing import check_frame
from protokern.explain.heat_maps import check_heat_map
from protokern.explain.images import explain_for_people, with_prototypes
from protokern.explain.prototype_frames import frame_prototypes, other_image
from protokern.explain.prototypes import describe_prototypes, find_prototypes
from protokern.explain.receptive_field import find_receptive_field
from protokern.explain.shown import Explanation
from protokern.interop.export.hub import CONFIG, from_pretrained
from protokern.models.base import PrototypeModel
from protokern.models.ensemble import Ensemble
from protokern.models.wrapped import wrap_network
from protokern.nets.gallery import Gallery
from protokern.nn import evaluating
from protokern.results.explanations import NO_CLASS
from protokern.results.places import ReceptiveField
from protokern.results.prototypes import Prototype
from protokern.results.run import Report
from protokern.runs.data import ReadOptions, as_image, name_of, reading_of
from protokern.runs.ensemble import OpenEnsemble, check_adds_up, is_ensemble, open_ensemble
from protokern.runs.open import OpenRun, check_final, choose_device, open_run
from protokern.runs.prototypes import PrototypeFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a net reads images: their size in pixels, and how files become channels."""

    size: int | tuple[int, int]
    options: ReadOptions


class Net:
    """A prototype net that answers for images and explains its answers.

    An image is a path, a picture of Pillow, an array (Y, X) or (Y, X, 3) of uint8 or of floats in [0, 1], or a tensor
    (C, Y, X). It is resized, turned upright and brought to the channels of the net like a file of its data.

    Attributes:
        model: the module; one that was loaded is in evaluation mode, a wrapped one in the mode that its network is in.
        classes: class names.
        name: of the run, or of the network's class.
    """

    def __init__(
        self,
        model: PrototypeModel | Ensemble,
        classes: Sequence[str],
        reading: Reading,
        *,
        name: str = "",
        source: OpenRun | OpenEnsemble | None = None,
    ) -> None:
        self.model = model
        self.classes = tuple(classes)
        self.name = name
        self._reading = reading
        self._source = source
        self._shown = _Shown()

    def __repr__(self) -> str:
        kind = type(self.model).__name__
        return f"Net {self.name}: {kind}, {len(self.classes)} classes, {self.model.num_prototypes} prototypes"

    @property
    def image_size(self) -> int | tuple[int, int]:
        """Pixels of the images that the net sees."""
        return self._reading.size

    def image(self, given: Any) -> Tensor:
        """An image as the net sees it, (C, Y, X) in [0, 1].

        Raises:
            ValueError: `given` is no image, or an address on the web.
            DataError: a file cannot be read.
        """
        return as_image(given, self._reading.size, self._reading.options)

    def probabilities(self, image: Any) -> dict[str, float]:
        """The probability of every class for an image, by name."""
        return dict(zip(self.classes, self._logits(image)[0].softmax(dim=0).tolist(), strict=True))

    def predict(self, image: Any) -> str:
        """The name of the class of an image; "none of these" if the net abstains."""
        logits, abstains = self._logits(image)
        return NO_CLASS if abstains else self.classes[int(logits.argmax())]

    def _logits(self, image: Any) -> tuple[Tensor, bool]:
        """Logits (K,) float64 on the CPU, and whether the net abstains."""
        first = self._first_model
        pixels = self.image(image)[None].to(first.device, first.dtype)
        with evaluating(self.model):
            output = self.model(pixels)
            abstains = isinstance(self.model, PrototypeModel) and bool(self.model.abstains(output)[0])
        return output.logits[0].double().cpu(), abstains

    @property
    def _first_model(self) -> PrototypeModel:
        return self.model if isinstance(self.model, PrototypeModel) else self.model.members[0]

    def explain(
        self,
        image: Any,
        *,
        name: str | None = None,
        true_class: str | None = None,
        heat_map: str = "upsample",
        frame: str = "grid",
    ) -> Explanation:
        """Why the net answers as it does for an image.

        Args:
            image: see the class.
            name: of the image; None: its file name, if it has one.
            true_class: name of the right class, if it is known.
            heat_map: see `explain_image`.
            frame: which box is drawn, "grid", "sufficient" or "paper", see `drawn_box`. "sufficient" is what pages of
                runs show; the net runs some twenty times for it, so it takes seconds.

        Raises:
            ValueError: an argument is wrong, or the image is none.
            DataError: a file cannot be read.
            CheckpointError: the pictures of the prototypes are broken, or the points of an ensemble do not add up.
            MissingPackageError: `heat_map` needs captum, and it is not installed.
        """
        check_heat_map(heat_map)
        check_frame(frame)
        pixels = self.image(image)
        own_name = name_of(image) if name is None else name
        known = None if true_class is None else self._index_of(true_class)
        if isinstance(self._source, OpenEnsemble):
            files_of_all = self._shown.of_members(self._source)
            return explain_together(
                check_adds_up(self._source),
                pixels,
                own_name,
                files=files_of_all,
                true_class=known,
                heat_map=heat_map,
                frame=frame,
            )
        assert isinstance(self.model, PrototypeModel)
        files = self._shown.of_run(self._source)
        explanation = explain_for_people(
            self.model,
            pixels,
            own_name,
            self.classes,
            self._shown.cards_for(self.model, self.classes, files, frame),
            true_class=known,
            receptive_field=self._shown.field_for(self.model, pixels, files),
            heat_map=heat_map,
            frame=frame,
            other=(lambda _: None) if self._source is None else partial(other_image, self._source, files),
        )
        if isinstance(self._source, OpenRun) and files is not None and frame == "sufficient":
            shown = {match.prototype.index for one in explanation.classes for match in one.matches}
            explanation = with_prototypes(explanation, self._shown.framed(self._source, files, shown))
        return replace(explanation, model_name=self.name)

    def _index_of(self, name: str) -> int:
        if name not in self.classes:
            raise ValueError(
                f"true_class: must be a class, one of {', '.join(self.classes[:10])}; got {name!r}. Check the spelling."
            )
        return self.classes.index(name)

    @property
    def prototypes(self) -> Gallery:
        """All prototypes, with pictures if the run has some.

        Raises:
            CheckpointError: the pictures of the prototypes are broken.
        """
        if isinstance(self._source, OpenEnsemble):
            return Gallery(describe_together(self._source, self._shown.of_members(self._source)))
        assert isinstance(self.model, PrototypeModel)
        layer, files = self.model.prototype_layer, self._shown.of_run(self._source)
        return Gallery(
            Report(
                title=self.name,
                classes=self.classes,
                prototypes=describe_prototypes(self.model, self.classes, files, "sufficient"),
                slots=class_slots(self.model, self.classes),
                tree=tree_nodes(self.model, self.classes),
                scoring=scoring_rows(self.model, self.classes),
                is_focal=self.model.is_focal,
                is_salient=layer.norm_as_weight,
                is_projected=layer.is_projected,
                shows_distance=layer.shows_distance,
                still_chooses=not self.model.is_hard,
            )
        )


@dataclass(slots=True)
class _Shown:
    """What is read or computed once for all explanations of a net."""

    files: PrototypeFiles | None = None
    members: list[PrototypeFiles | None] | None = None
    is_read: bool = False
    cards: dict[str, tuple[Prototype, ...]] = field(default_factory=dict)
    fields: dict[tuple[int, ...], ReceptiveField] = field(default_factory=dict)

    def of_run(self, run: OpenRun | OpenEnsemble | None) -> PrototypeFiles | None:
        if not self.is_read and isinstance(run, OpenRun):
            self.files = find_prototypes(run, None)
        self.is_read = True
        return self.files

    def of_members(self, ensemble: OpenEnsemble) -> list[PrototypeFiles | None]:
        if self.members is None:
            self.members = member_files(ensemble, None)
        return self.members

    def cards_for(
        self, model: PrototypeModel, classes: Sequence[str], files: PrototypeFiles | None, frame: str
    ) -> tuple[Prototype, ...]:
        if frame not in self.cards:
            self.cards[frame] = describe_prototypes(model, classes, files, frame)
        return self.cards[frame]

    def framed(self, run: OpenRun, files: PrototypeFiles, prototypes: Collection[int]) -> tuple[Prototype, ...]:
        """The cards with the sufficient frames of some prototypes, which are sought once."""
        self.files = frame_prototypes(run, files, prototypes=prototypes)
        self.cards.pop("sufficient", None)
        return self.cards_for(run.model, run.classes, self.files, "sufficient")

    def field_for(self, model: PrototypeModel, image: Tensor, files: PrototypeFiles | None) -> ReceptiveField:
        size = tuple(image.shape[1:])
        if size not in self.fields:
            known = None if files is None else files.field_for(image)
            with evaluating(model):
                self.fields[size] = known or find_receptive_field(model.features, image.to(model.device, model.dtype))
        return self.fields[size]


def load(path: Path | str, *, device: str = "cpu") -> Net:
    """The net of a run folder, of one of its checkpoints, of the folder of an ensemble, or of an exported folder.

    Args:
        path: the folder. One that `protokern export --format hub` or `save_pretrained` wrote has no pictures of
            prototypes that could be shown.
        device: where the net goes, such as "cuda"; "auto": a GPU if there is one.

    Raises:
        CheckpointError: the folder does not exist or is broken, or the classes of the run still choose their
            prototypes.
        BackendUnavailableError: there is no such device.
    """
    chosen = choose_device(device)
    if is_ensemble(path):
        ensemble = open_ensemble(path, device=chosen)
        first = ensemble.members[0].config
        return Net(
            ensemble.model,
            ensemble.classes,
            Reading(size=first.data.image_size, options=reading_of(first)),
            name=ensemble.folder.resolve().name,
            source=ensemble,
        )
    if (Path(path) / CONFIG).is_file():
        return _load_pretrained(Path(path), chosen)
    run = check_final(open_run(path, device=chosen))
    reading = Reading(size=run.config.data.image_size, options=reading_of(run.config))
    return Net(run.model, run.classes, reading, name=run.folder.resolve().name, source=run)


def _load_pretrained(folder: Path, device: torch.device) -> Net:
    model, config, classes = from_pretrained(folder)
    if not model.is_hard:
        raise CheckpointError(
            f"{folder}: must have final choices to be explained; its classes still choose their prototypes. Make them "
            "final with 'protokern push' before the export."
        )
    settings = parse_config(config)
    reading = Reading(size=settings.data.image_size, options=reading_of(settings))
    return Net(model.to(device), classes, reading, name=folder.resolve().name)


def wrap(
    net: nn.Module | Sequence[nn.Module],
    classes: Sequence[str] | None = None,
    *,
    image_size: int | tuple[int, int],
    channels: int = 3,
    class_identity: Tensor | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Net:
    """A network of another program, or one of your own, in one object.

    The network is not changed, and its parts are used as they are. Its answers are compared with those of its parts.

    Args:
        net: a released ProtoPNet, accelerated or not; any module with one `PrototypeLayer` whose similarities go into
            one linear layer; or its (backbone, prototype_layer, last_layer).
        classes: names, in the order of the logits; None: "class 0" and so on.
        image_size: pixels of the images that the net takes, one number or (rows, columns).
        channels: of these images.
        class_identity: (P, K), which prototypes belong to which class; None: what a released net says, else each
            belongs to the class for which its weight is largest, if that is above 0.
        mean, std: of the channels, if the net takes normalised images; None: it takes images in [0, 1].

    Raises:
        ValueError: an argument is wrong, or the answers of the parts are not those of the net.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])
    model = wrap_network(net, size, channels=channels, class_identity=class_identity, mean=mean, std=std)
    names = [f"class {k}" for k in range(model.num_classes)] if classes is None else list(classes)
    if len(names) != model.num_classes or len(set(names)) != len(names):
        raise ValueError(
            f"classes: must be {model.num_classes} different names, as the net has logits; got {len(names)}. Name all."
        )
    name = type(net).__name__ if isinstance(net, nn.Module) else type(net[0]).__name__
    return Net(model, names, Reading(size=size, options=ReadOptions(channels=channels)), name=name)
