"""Explanations of images for people: with names of classes, the prototypes of a run with their pictures, and frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from protokern.explain.framing import frame_explanation, show_frame
from protokern.explain.heat_maps import check_heat_map
from protokern.explain.local import explain_image
from protokern.explain.prototype_frames import frame_prototypes, other_image
from protokern.explain.prototypes import describe_prototypes, find_prototypes
from protokern.explain.shown import Explanation
from protokern.explain.sight import Sight
from protokern.models.base import PrototypeModel
from protokern.results import explanations as results
from protokern.results.explanations import ClassExplanation
from protokern.results.places import ReceptiveField
from protokern.results.progress import Progress, show_nothing
from protokern.results.prototypes import Prototype
from protokern.runs.data import read_photographs
from protokern.runs.open import OpenRun, check_final
from protokern.runs.prototypes import PrototypeFiles

SHOWN_MATCHES = 4
OfImage = TypeVar("OfImage", bound=results.Explanation)


def explain_images(
    run: OpenRun,
    images: Sequence[Tensor | Path | str],
    names: Sequence[str] | None = None,
    *,
    files: PrototypeFiles | None = None,
    heat_map: str = "upsample",
    frame: str = "sufficient",
    progress: Progress = show_nothing,
) -> Iterator[Explanation]:
    """Explain images by the model of a run, with its class names and the pictures of its prototypes.

    Args:
        run: a run whose choices are final.
        images: (C, Y, X) each, as the run reads its data; or paths of photographs, which are all read first.
        names: of the images; None: the file names, or "image 0" and so on.
        files: the prototypes of the run; None: those in its folder, if there are any.
        heat_map: how the heat maps of the images are computed, see `explain_image`.
        frame: which box is drawn as the frame: "sufficient", "grid" or "paper"; see `drawn_box`.
        progress: shows the progress of the frames of the prototypes.

    Returns:
        An iterator that explains each image when it is reached. The evidence of the answer and the runner-up is drawn,
        of the third class only the total.

    Raises:
        CheckpointError: the classes of the run still choose their prototypes.
        ValueError: `heat_map` is unknown.
        DataError: a photograph cannot be read.
        MissingPackageError: the package of `heat_map` is not installed.
    """
    check_heat_map(heat_map, run.model)
    check_final(run)
    read = [one if isinstance(one, Tensor) else read_photographs(run.config, [Path(one)])[0] for one in images]
    own_names = [f"image {k}" if isinstance(one, Tensor) else Path(one).name for k, one in enumerate(images)]
    found = files or find_prototypes(run, None)
    return _explanations(run, read, names or own_names, found, heat_map, frame, progress)


def _explanations(
    run: OpenRun,
    images: Sequence[Tensor],
    names: Sequence[str],
    files: PrototypeFiles | None,
    heat_map: str,
    frame: str,
    progress: Progress,
) -> Iterator[Explanation]:
    field = None if files is None or not images else files.field_for(images[0])
    prototypes = describe_prototypes(run.model, run.classes, files, frame)
    for image, name in zip(images, names, strict=True):
        explanation = explain_for_people(
            run.model,
            image,
            name,
            run.classes,
            prototypes,
            receptive_field=field,
            heat_map=heat_map,
            frame=frame,
            other=partial(other_image, run, files),
        )
        if files is not None and frame == "sufficient":
            shown = {match.prototype.index for one in explanation.classes for match in one.matches}
            files = frame_prototypes(run, files, prototypes=shown, progress=progress)
            prototypes = describe_prototypes(run.model, run.classes, files, frame)
            explanation = with_prototypes(explanation, prototypes)
        field = explanation.receptive_field
        yield replace(explanation, model_name=run.folder.resolve().name)


def explain_for_people(
    model: PrototypeModel,
    image: Tensor,
    name: str,
    class_names: Sequence[str],
    prototypes: Sequence[Prototype],
    *,
    true_class: int | None = None,
    classes: Sequence[int] | None = None,
    receptive_field: ReceptiveField | None = None,
    heat_map: str = "upsample",
    frame: str = "grid",
    other: Callable[[int], Tensor | None] = lambda class_index: None,
) -> Explanation:
    """Explain an image: its answer and one other class in full, a third class by its total.

    The other class is the right class if the answer is wrong, otherwise the runner-up.

    Args:
        model: any prototype model whose choices are final.
        image: (C, Y, X).
        name: of the image.
        class_names: of all classes.
        prototypes: all prototypes of the model.
        true_class: index of the right class, if known.
        classes: three classes to explain, the first two in full; None: as above.
        receptive_field: of the model for this image size, if known.
        heat_map: how the heat maps of the image are computed, see `explain_image`.
        frame: which box is drawn as the frame, see `drawn_box`.
        other: from the answer to another image (C, Y, X) with which its frames are checked, if there is one.
    """
    explanation = explain_image(
        model,
        image,
        top=SHOWN_MATCHES,
        classes=classes,
        also=() if true_class is None else (true_class,),
        receptive_field=receptive_field,
        heat_map=heat_map,
    )
    in_full = (classes[0], classes[1]) if classes is not None else _answer_and_rival(explanation, true_class)
    if frame == "sufficient":
        explanation = frame_explanation(model, image, explanation, classes=in_full, other=other(in_full[0]))

    def described(one: ClassExplanation) -> ClassExplanation:
        return replace(
            one,
            class_name=class_names[one.class_index],
            evidence=tuple(show_frame(evidence, frame) for evidence in one.evidence),
            is_drawn=one.class_index in in_full,
        )

    named = replace(
        explanation,
        name=name,
        classes=tuple(map(described, explanation.classes)),
        class_names=tuple(class_names),
        true_class=None if true_class is None else class_names[true_class],
    )
    return with_prototypes(named, prototypes)


def _answer_and_rival(explanation: Explanation, true_class: int | None) -> tuple[int, int]:
    if true_class is None or true_class == explanation.predicted:
        return explanation.predicted, explanation.classes[1].class_index
    return explanation.predicted, true_class


def with_prototypes(explanation: OfImage, prototypes: Sequence[Prototype]) -> OfImage:
    """The explanation with these prototypes, by index, in its evidence."""
    classes = (
        replace(
            one,
            evidence=tuple(
                replace(evidence, prototype=prototypes[evidence.view.prototype]) for evidence in one.evidence
            ),
        )
        for one in explanation.classes
    )
    changed = replace(explanation, classes=tuple(classes))
    if isinstance(changed, Explanation) and isinstance(changed.sight, Sight):
        return replace(changed, sight=replace(changed.sight, cards=tuple(prototypes)))
    return changed
