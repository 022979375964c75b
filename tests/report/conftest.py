"""Small reports with everything on them, made of noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protokern.results.explanations import ClassExplanation, Evidence, Explanation
from protokern.results.importance import Reason
from protokern.results.measures import Estimate, MeasureResult, Trust
from protokern.results.places import Box, PatchView, ReceptiveField, SeenPicture, SufficientFrame
from protokern.results.prototypes import ClassSlots, ClassWeight, Neighbour, Neighbours, Prototype, PrototypeSource
from protokern.results.run import Confusion, EpochPoint, Report, StageResult

CLASSES = ("<script>alert(1)</script>", "jay \"& co'", "Eichelhäher Šojka")
FILE_NAME = 'train/a/"><img src=x onerror=alert(2)>.jpg'


def make_picture(seed: int, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)


def make_seen(seed: int, *, sees_part: bool = True) -> SeenPicture:
    field = (0, 4, 20, 30) if sees_part else (0, 0, 24, 32)
    return SeenPicture(
        image=make_picture(seed), heat=make_picture(seed + 1), box=(6, 8, 12, 24), receptive_field_box=field
    )


def make_neighbour(seed: int, class_name: str) -> Neighbour:
    return Neighbour(
        picture=replace(make_seen(seed), heat=None),
        name=FILE_NAME,
        class_name=class_name,
        similarity=4.0 - seed / 100,
        distance=seed / 10,
        patch_box=(2, 4, 14, 28),
    )


def make_neighbours(seed: int) -> Neighbours:
    """Two of three training patches are of the first class, and the one test patch is of the last."""
    return Neighbours(
        train=tuple(make_neighbour(seed + k, CLASSES[k // 2]) for k in range(3)),
        test=(make_neighbour(seed + 3, CLASSES[2]),),
        agreement_train=2 / 3,
        agreement_test=0.0,
    )


REASONS = (
    Reason("hue", 0.8, 0.7, 0.9, 0.75),
    Reason("shape", 0.1, 0.05, 0.15, 0.12),
    Reason("texture", -0.05, -0.1, 0.0, None),
)


def make_source(name: str) -> PrototypeSource:
    box = Box(6, 8, 12, 24)
    return PrototypeSource(
        image=0,
        name=name,
        patch=(2, 3),
        activation_box=box,
        patch_box=box,
        receptive_field_box=box,
        distance=0.25,
    )


def make_cards() -> tuple[Prototype, ...]:
    cards = [
        Prototype(
            index=index,
            classes=(ClassWeight(index // 2, CLASSES[index // 2], 1.5),),
            picture=make_seen(10 * index),
            source=make_source(FILE_NAME),
            reasons=REASONS if index < 2 else (),
            neighbours=make_neighbours(20 * index) if index == 0 else None,
        )
        for index in range(5)
    ]
    lost = Prototype(index=5, classes=(ClassWeight(2, CLASSES[2], -0.25),))
    return (*cards, lost)


def make_evidence(prototype: Prototype, similarity: float, weight: float, **others: Any) -> Evidence:
    seen = make_seen(100 + prototype.index)
    view = PatchView(
        prototype=prototype.index,
        patch=(2, 3),
        heat_map=np.zeros((24, 32), dtype=np.float32),
        activation_box=Box(*seen.box),
        patch_box=Box(*seen.box),
        receptive_field_box=Box(*seen.receptive_field_box),
        cell=Box(8, 10, 12, 14),
    )
    evidence = Evidence(
        view=view,
        picture=seen,
        prototype=prototype,
        prototype_classes=tuple(one.class_index for one in prototype.classes),
        slots=(),
        distance=0.5,
        similarity=similarity,
        weight=weight,
        points=similarity * weight,
        is_reason=True,
    )
    return replace(evidence, **others)


def make_class(index: int, evidence: tuple[Evidence, ...], **others: Any) -> ClassExplanation:
    """A class whose numbers are the given ones; what is not given is 0, and other points are the sum of both kinds."""
    numbers = dict.fromkeys(
        ("logit", "probability", "own_points", "num_own", "foreign_points", "num_foreign", "num_unused"), 0
    )
    numbers |= others
    return ClassExplanation(
        class_index=index,
        class_name=CLASSES[index],
        evidence=evidence,
        other_points=numbers["own_points"] + numbers["foreign_points"],
        num_other=numbers["num_own"] + numbers["num_foreign"],
        **numbers,
    )


def make_explained(cards: tuple[Prototype, ...], *, true_class: str | None) -> Explanation:
    matches = (
        make_evidence(cards[0], 4.0, 2.0, reasons=REASONS),
        make_evidence(cards[5], 2.0, -0.5),
    )
    first = make_class(
        0,
        matches,
        logit=8.0 - 1.0 + 0.75 - 2.5,
        probability=0.9,
        own_points=0.75,
        num_own=1,
        foreign_points=-2.5,
        num_foreign=3,
        num_speaking=5,
    )
    second = make_class(
        1,
        (),
        logit=-1.25,
        probability=0.1,
        own_points=1.0,
        num_own=2,
        foreign_points=-2.25,
        num_foreign=4,
        num_speaking=6,
    )
    return Explanation(
        logits=np.array([5.25, -1.25, -8.0], dtype=np.float32),
        points=np.zeros((6, 3)),
        classes=(first, second),
        receptive_field=ReceptiveField(rows=((0, 20),), columns=((4, 30),)),
        name=FILE_NAME,
        image=make_picture(7),
        class_names=CLASSES,
        true_class=true_class,
    )


def make_proof(grey: float | None, blur: float | None, other: float | None, area: float | None) -> SufficientFrame:
    return SufficientFrame(
        box=Box(6, 8, 12, 24), similarity=4.0, kept_grey=grey, kept_blur=blur, kept_other=other, area=area, passes=9
    )


PROOF = make_proof(0.934, 0.88, 0.679, 0.18)


def with_tested_frames(data: Report) -> Report:
    """The same report with frames that were tested, of the prototypes and in the explained images."""

    def tested(seen: SeenPicture | None) -> SeenPicture | None:
        return None if seen is None else replace(seen, cell=(8, 10, 12, 14), proof=PROOF)

    def of_card(card: Prototype) -> Prototype:
        return replace(card, picture=tested(card.picture))

    def of_evidence(match: Evidence) -> Evidence:
        return replace(match, picture=tested(match.picture), prototype=of_card(match.prototype))

    def of_item(item: Explanation) -> Explanation:
        return replace(
            item, classes=tuple(replace(one, evidence=tuple(map(of_evidence, one.evidence))) for one in item.classes)
        )

    return replace(
        data, prototypes=tuple(map(of_card, data.prototypes)), explanations=tuple(map(of_item, data.explanations))
    )


def make_number(
    value: float, ends: tuple[float, float] | None = None, images: int = 0, prototypes: int = 0
) -> Estimate:
    low, high = (None, None) if ends is None else ends
    return Estimate(value=value, low=low, high=high, images=images, prototypes=prototypes)


def make_trust() -> Trust:
    """One measure of each kind: with random prototypes, with chance, with a count, left out."""
    nan = float("nan")
    return Trust(
        results=(
            MeasureResult(
                name="left_alone",
                estimates={
                    "1 x 1 cells": make_number(0.25, (0.2, 0.3), 8),
                    "grid frame": make_number(0.625, (0.5, 0.75), 8),
                },
                settings={"images drawn": 8, "the rest is": "blurred"},
                skipped={"images whose class has no prototype": 0, "images whose best similarity is not above 0": 1},
                prototypes={
                    "1 x 1 cells": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
                    "grid frame": [0.5, -0.25, 0.75, 1.0, 0.875, 0.625],
                },
            ),
            MeasureResult(
                name="on_object",
                estimates={
                    "box <b>jay</b>, own class": make_number(0.9, (0.8, 1.0), 15),
                    "box <b>jay</b>, by chance": make_number(0.4, (0.3, 0.5), 15),
                },
            ),
            MeasureResult(
                name="consistency",
                estimates={"consistent prototypes": make_number(0.5, (0.25, 0.75), prototypes=4)},
                prototypes={
                    "consistent": [1.0, nan, 0.0, 1.0, 0.0, nan],
                    "best part": ["beak", "", "left wing", "beak", "tail", ""],
                    "share with the best part": [0.8, nan, 0.5, 1.0, 0.25, nan],
                },
            ),
            MeasureResult(
                name="duplicates",
                estimates={
                    "prototypes that repeat an earlier one": Estimate(
                        value=2, low=None, high=None, images=0, unit="number"
                    )
                },
                settings={"prototypes": 6},
                table=({"first": 0, "second": 3}, {"first": 1, "second": 3}),
            ),
            MeasureResult(name="purity", left_out="it needs part centres"),
        ),
        random=(MeasureResult(name="left_alone", estimates={"grid frame": make_number(0.375, (0.25, 0.5), 8)}),),
        quick=("left_alone", "duplicates"),
        num_images=15,
    )


@pytest.fixture
def trusted_data(report_data: Report) -> Report:
    """As `report_data`, with measures."""
    return replace(report_data, trust=make_trust())


@pytest.fixture
def explained() -> Explanation:
    return make_explained(make_cards(), true_class=CLASSES[1])


@pytest.fixture
def report_data() -> Report:
    cards = make_cards()
    return Report(
        title="run <b>one</b>",
        classes=CLASSES,
        prototypes=cards,
        explanations=(
            make_explained(cards, true_class=CLASSES[0]),
            make_explained(cards, true_class=CLASSES[1]),
            make_explained(cards, true_class=None),
        ),
        confusion=Confusion(counts=np.array([[5, 1, 0], [0, 4, 0], [2, 0, 3]])),
        epochs=tuple(
            EpochPoint(
                stage="warm" if epoch < 2 else "joint",
                epoch=epoch,
                loss=3.0 - epoch / 2,
                val_loss=2.0 - epoch / 4,
                accuracy=0.2 * epoch,
                val_accuracy=0.15 * epoch,
            )
            for epoch in range(5)
        ),
        stages=(
            StageResult(stage="joint", epoch=4, num_prototypes=9, val_accuracy=0.75, test_accuracy=0.7),
            StageResult(stage="push", epoch=4, num_prototypes=9, val_accuracy=0.7, test_accuracy=0.65),
            StageResult(stage="prune", epoch=4, num_prototypes=6, val_accuracy=0.7, test_accuracy=None),
        ),
        settings='[data]\npath = "</pre><script>alert(3)</script>"\n',
        notes=("A note with <i>markup</i> 松鸦.",),
        facts=(("model", "protopnet"),),
    )


@pytest.fixture
def pool_data(report_data: Report) -> Report:
    """As `report_data`, with shared prototypes: 0 of all classes, 1 and 2 of two, 3 and 4 of one, 5 of none."""
    users = ((0, 1, 2), (0, 1), (1, 2), (0,), (2,), ())
    cards = tuple(
        replace(card, classes=tuple(ClassWeight(k, CLASSES[k], 1.5 + k) for k in of_card))
        for card, of_card in zip(report_data.prototypes, users, strict=True)
    )
    held = ((0, 1, 3), (1, 2, 0), (2, None, 4))
    slots = tuple(ClassSlots(class_name=name, prototypes=row) for name, row in zip(CLASSES, held, strict=True))
    explained = make_explained(cards, true_class=CLASSES[0])
    first = explained.classes[0]
    in_slots = (replace(first.evidence[0], slots=(0,)), first.evidence[1])
    first = replace(first, evidence=in_slots, num_unused=1)
    explained = replace(explained, classes=(first, *explained.classes[1:]), is_focal=True)
    return replace(report_data, prototypes=cards, slots=slots, explanations=(explained,), is_focal=True)
