"""Explanations and the page of an ensemble: the points of all its members add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from protokern.evaluate import Predictions, count_confusion
from protokern.explain.collect import choose_images
from protokern.explain.images import SHOWN_MATCHES, explain_for_people
from protokern.explain.local import EXPLAINED_CLASSES
from protokern.explain.neighbours import NEIGHBOURS, add_neighbours
from protokern.explain.prototype_frames import other_image
from protokern.explain.prototypes import describe_prototypes, find_prototypes
from protokern.explain.shown import Explanation, Looked, Report
from protokern.inputs.loaders import ordered_loader
from protokern.results.contrast import ContrastRow
from protokern.results.explanations import ClassExplanation, Evidence, softmax
from protokern.results.progress import Progress, show_nothing
from protokern.results.prototypes import Prototype
from protokern.results.run import Confusion
from protokern.results.scores import score_classes
from protokern.runs.data import RunData, check_classes
from protokern.runs.ensemble import OpenEnsemble
from protokern.runs.features import RunFeatures, find_inputs
from protokern.runs.folder import versions
from protokern.runs.prototypes import PrototypeFiles

Files = Sequence[PrototypeFiles | None]


def member_files(ensemble: OpenEnsemble, splits: RunData | None) -> list[PrototypeFiles | None]:
    """The pictures of the prototypes of every member; None where there are none."""
    return [find_prototypes(run, splits) for run in ensemble.members]


def explain_together(
    ensemble: OpenEnsemble,
    image: Tensor,
    name: str,
    *,
    files: Files,
    true_class: int | None = None,
    heat_map: str = "upsample",
    frame: str = "sufficient",
    splits: RunData | None = None,
) -> Explanation:
    """Explain an image by the sum of the members' points.

    Prototypes are numbered through: those of the second member follow those of the first. Names of their source images
    say which member they are of.

    Args:
        ensemble: whose members add up, see `check_adds_up`.
        image: (C, Y, X).
        name: of the image.
        files: of `member_files`.
        true_class: index of the right class, if known.
        heat_map: as in `explain_image`.
        frame: as in `drawn_box`.
        splits: the data, for the check of frames with another image.
    """
    model = ensemble.model
    device, dtype = model.members[0].device, model.members[0].dtype
    with torch.inference_mode():
        logits = model(image[None].to(device, dtype)).logits[0].float().cpu().numpy()
    classes = _in_order(logits, true_class)
    parts = [
        explain_for_people(
            run.model,
            image,
            name,
            run.classes,
            describe_prototypes(run.model, run.classes, own, frame),
            true_class=true_class,
            classes=classes,
            receptive_field=None if own is None else own.field_for(image),
            heat_map=heat_map,
            frame=frame,
            other=partial(other_image, run, own, splits=splits),
        )
        for run, own in zip(ensemble.members, files, strict=True)
    ]
    return _added(parts, logits, classes, _starts(ensemble), ensemble)


def _in_order(logits: np.ndarray, true_class: int | None) -> list[int]:
    """The answer, the right class or the runner-up, and another class."""
    ranked = [int(k) for k in np.argsort(-logits, kind="stable")]
    if true_class is not None and true_class != ranked[0]:
        ranked.remove(true_class)
        ranked.insert(1, true_class)
    return ranked[:EXPLAINED_CLASSES]


def _starts(ensemble: OpenEnsemble) -> list[int]:
    """The number of each member's first prototype."""
    return list(accumulate((run.model.num_prototypes for run in ensemble.members), initial=0))[:-1]


def _added(
    parts: Sequence[Explanation],
    logits: np.ndarray,
    classes: Sequence[int],
    starts: Sequence[int],
    ensemble: OpenEnsemble,
) -> Explanation:
    shares = softmax(logits)
    rows = []
    for place, k in enumerate(classes):
        of_class = [part.classes[place] for part in parts]
        evidence = [
            _renumbered(one, start, name)
            for row, start, name in zip(of_class, starts, ensemble.names, strict=True)
            for one in row.evidence
        ]
        rows.append(_class_of_all(of_class, evidence, float(logits[k]), float(shares[k])))
    first = max(parts, key=lambda part: part.receptive_field.share(part.image.shape[:2]))
    return replace(
        first,
        logits=logits,
        points=np.concatenate([part.points for part in parts]),
        classes=tuple(rows),
        model_name=f"{ensemble.folder.resolve().name}, prototypes {_places(ensemble)}",
        is_focal=any(part.is_focal for part in parts),
        is_salient=any(part.is_salient for part in parts),
        is_projected=any(part.is_projected for part in parts),
        sight=_SightOfAll(tuple(part.sight for part in parts if part.sight is not None), tuple(starts), ensemble.names),
    )


@dataclass(frozen=True, slots=True)
class _SightOfAll:
    """An image as all members saw it; prototypes are numbered through.

    Attributes:
        sights: of every member.
        starts: the number of each member's first prototype.
        names: of the members.
    """

    sights: tuple[Looked, ...]
    starts: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def bias(self) -> np.ndarray:
        """(K,)."""
        total: np.ndarray = np.sum([sight.bias for sight in self.sights], axis=0)
        return total

    def rows(self, prototypes: Sequence[int], a: int, b: int) -> tuple[ContrastRow, ...]:
        """As `Sight.rows`."""
        member = np.searchsorted(self.starts, prototypes, side="right") - 1
        found: dict[int, ContrastRow] = {}
        for place in sorted(set(member.tolist())):
            start = self.starts[place]
            own = [j - start for j, at in zip(prototypes, member.tolist(), strict=True) if at == place]
            for j, row in zip(own, self.sights[place].rows(own, a, b), strict=True):
                found[j + start] = replace(row, evidence=_renumbered(row.evidence, start, self.names[place]))
        return tuple(found[j] for j in prototypes)


def _renumbered(one: Evidence, start: int, member: str) -> Evidence:
    view = replace(one.view, prototype=one.view.prototype + start)
    return replace(one, view=view, prototype=_card_of(one.prototype, start, member))


def _card_of(card: Prototype, start: int, member: str) -> Prototype:
    """A member's prototype as one of the ensemble."""
    source = None if card.source is None else replace(card.source, name=f"{card.source.name} of {member}")
    return replace(card, index=card.index + start, source=source)


def _class_of_all(
    rows: Sequence[ClassExplanation], evidence: Sequence[Evidence], logit: float, probability: float
) -> ClassExplanation:
    """A class with the points of all members; what is left out of the shown evidence joins the rest."""
    shown = _most_points(evidence)
    chosen = {one.view.prototype for one in shown}
    left = [one for one in evidence if one.view.prototype not in chosen]
    k = rows[0].class_index
    own = [one.points for one in left if k in one.prototype_classes]
    foreign = [one.points for one in left if k not in one.prototype_classes]
    totals = {
        name: sum(getattr(row, name) for row in rows)
        for name in ("other_points", "num_other", "own_points", "num_own", "foreign_points", "num_foreign")
    }
    return replace(
        rows[0],
        logit=logit,
        probability=probability,
        evidence=tuple(shown),
        other_points=totals["other_points"] + sum(own) + sum(foreign),
        num_other=totals["num_other"] + len(left),
        own_points=totals["own_points"] + sum(own),
        num_own=totals["num_own"] + len(own),
        foreign_points=totals["foreign_points"] + sum(foreign),
        num_foreign=totals["num_foreign"] + len(foreign),
        num_unused=sum(row.num_unused for row in rows) + sum(not one.prototype_classes for one in left),
        num_speaking=sum(row.num_speaking for row in rows),
    )


def _most_points(evidence: Sequence[Evidence]) -> list[Evidence]:
    """As many as of one model, by falling size of their points; half of them reasons, if there are enough."""
    by_size = sorted(evidence, key=lambda one: -abs(one.points))
    count = min(SHOWN_MATCHES, len(by_size))
    kept = {one.view.prototype for one in [one for one in by_size if one.is_reason][: (count + 1) // 2]}
    for one in by_size:
        if len(kept) < count:
            kept.add(one.view.prototype)
    return [one for one in by_size if one.view.prototype in kept]


def collect_together(
    ensemble: OpenEnsemble,
    splits: RunData,
    *,
    num_neighbours: int = NEIGHBOURS,
    frame: str = "sufficient",
    progress: Progress = show_nothing,
) -> Report:
    """What the page of an ensemble shows: its answers to the test images, and the prototypes of all members.

    Curves, measures and the frames of prototypes that were not sought before are on the pages of the members.

    Args:
        ensemble: whose members add up, see `check_adds_up`.
        splits: the data.
        num_neighbours: patches shown for each prototype, in training and in test images; 0: none.
        frame: as in `drawn_box`.
        progress: shows the progress of the answers and of the explanations.

    Raises:
        DataError: the data have other classes than the members.
    """
    check_classes(splits, ensemble.classes)
    files = member_files(ensemble, splits)
    predictions = _answers(ensemble, splits, progress)
    labels, answers = torch.from_numpy(predictions.labels), torch.from_numpy(predictions.answers)
    counts = count_confusion(labels, answers, len(ensemble.classes))
    chosen = choose_images(predictions, len(ensemble.classes))
    explanations = []
    for index in progress(chosen, "explanations", len(chosen)):
        image, label = splits.test[index]
        name = splits.test.sample_name(index)
        explanations.append(
            explain_together(ensemble, image, name, files=files, true_class=label, frame=frame, splits=splits)
        )
    return replace(
        describe_together(ensemble, files, frame),
        prototypes=_cards(ensemble, splits, files, num_neighbours, frame),
        explanations=tuple(explanations),
        confusion=Confusion(counts=counts.numpy()),
        scores=score_classes(counts),
        facts=_facts(ensemble, splits),
    )


def describe_together(ensemble: OpenEnsemble, files: Files, frame: str = "sufficient") -> Report:
    """What the page of an ensemble shows without data: the prototypes of all members.

    Args:
        ensemble: whose members they are of.
        files: of `member_files`.
        frame: as in `drawn_box`.
    """
    layers = [run.model.prototype_layer for run in ensemble.members]
    return Report(
        title=ensemble.folder.resolve().name,
        classes=ensemble.classes,
        prototypes=_cards(ensemble, None, files, 0, frame),
        is_focal=any(run.model.is_focal for run in ensemble.members),
        is_salient=any(layer.norm_as_weight for layer in layers),
        is_projected=any(layer.is_projected for layer in layers),
        shows_distance=all(layer.shows_distance for layer in layers),
        notes=(_say_members(ensemble),),
    )


def _answers(ensemble: OpenEnsemble, splits: RunData, progress: Progress) -> Predictions:
    config = ensemble.members[0].config
    batches = ordered_loader(splits.test, config.train.batch_size, config.data.workers)
    first = ensemble.model.members[0]
    labels, answers = [], []
    with torch.inference_mode():
        for images, batch_labels in progress(batches, "answers to the test images", len(batches)):
            answers.append(ensemble.model(images.to(first.device, first.dtype)).logits.argmax(dim=1).cpu())
            labels.append(batch_labels)
    return Predictions(torch.cat(labels).numpy(), torch.cat(answers).numpy())


def _cards(
    ensemble: OpenEnsemble, splits: RunData | None, files: Files, num_neighbours: int, frame: str
) -> tuple[Prototype, ...]:
    cards: list[Prototype] = []
    for run, own, start, name in zip(ensemble.members, files, _starts(ensemble), ensemble.names, strict=True):
        of_member = describe_prototypes(run.model, run.classes, own, frame)
        if own is not None and splits is not None and num_neighbours:
            features = RunFeatures.of(run, find_inputs(run, splits))
            of_member = add_neighbours(of_member, run, splits, features, own, num_neighbours, frame)
        cards += [_card_of(card, start, name) for card in of_member]
    return tuple(cards)


def _places(ensemble: OpenEnsemble) -> str:
    """Which prototypes are of which member, in words."""
    return ", ".join(
        f"{start} to {start + run.model.num_prototypes - 1} of {name}"
        for run, start, name in zip(ensemble.members, _starts(ensemble), ensemble.names, strict=True)
    )


def _say_members(ensemble: OpenEnsemble) -> str:
    return (
        f"This is an ensemble of {len(ensemble.members)} models, whose points add up. Prototypes: {_places(ensemble)}. "
        "What was measured of each model is on its own page."
    )


def _facts(ensemble: OpenEnsemble, splits: RunData) -> tuple[tuple[str, str], ...]:
    members = (
        f"{name}: {run.config.model.name} on {run.config.model.backbone}"
        for name, run in zip(ensemble.names, ensemble.members, strict=True)
    )
    return (
        ("models", "; ".join(members)),
        ("number of images", f"{len(splits.push)} for training, {len(splits.test)} for testing"),
        ("page by", ", ".join(f"{name} {version}" for name, version in versions().items())),
    )
