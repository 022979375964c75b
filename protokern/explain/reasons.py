"""Which properties matter to the prototypes of a run, for its page: from RUN/importance, and for single images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from protokern.errors import MissingPackageError
from protokern.explain.importance import Prepare, local_importance
from protokern.explain.modifications import MODIFICATIONS, Modification, choose_modifications
from protokern.explain.shown import Explanation
from protokern.models.base import PrototypeModel
from protokern.results.explanations import Evidence
from protokern.results.importance import Reason
from protokern.results.prototypes import Prototype
from protokern.runs.importance import ImportanceFiles, read_importance
from protokern.runs.open import OpenRun


def find_importance(run: OpenRun, notes: list[str]) -> ImportanceFiles | None:
    """The scores of the run's prototypes, if they were measured; scores of an older push are left out with a note.

    Raises:
        CheckpointError: the file is broken or of another format.
    """
    files = None if run.push is None else read_importance(run.folder)
    if files is None or run.push is None or files.comes_from(run.push):
        return files
    notes.append(
        "What matters to the prototypes was measured before the last push or pruning, so it is left out. "
        "Measure it again with 'protokern importance RUN'."
    )
    return None


def add_global_reasons(cards: Sequence[Prototype], files: ImportanceFiles) -> tuple[Prototype, ...]:
    """Add to every prototype that is a patch of an image its scores over the training images."""
    return tuple(
        card
        if card.picture is None
        else replace(card, reasons=files.reasons(card.index), mean_similarity=float(files.train.similarity[card.index]))
        for card in cards
    )


def add_local_reasons(
    explanation: Explanation,
    picture: np.ndarray,
    model: PrototypeModel,
    modifications: dict[str, Modification],
    prepare: Prepare | None = None,
) -> Explanation:
    """Add to the evidence of an explained image how much similarity each change of the image takes away.

    Args:
        explanation: of the image.
        picture: (Y, X, 3) uint8, as the model saw it.
        model: the model that explained it.
        modifications: by name.
        prepare: from colour pictures to the inputs of the model; None: they are the same.
    """
    scores = local_importance(model, picture, modifications, prepare=prepare)

    def with_reasons(evidence: Evidence) -> Evidence:
        index = evidence.prototype.index
        deltas = zip(scores.names, scores.delta[:, index].tolist(), strict=True)
        return replace(
            evidence,
            reasons=tuple(Reason(name, delta) for name, delta in deltas),
            place_similarity=float(scores.similarity[index]) if model.is_focal else None,
        )

    classes = (replace(one, evidence=tuple(map(with_reasons, one.evidence))) for one in explanation.classes)
    return replace(explanation, classes=tuple(classes))


def choose_local_modifications(files: ImportanceFiles, notes: list[str]) -> dict[str, Modification]:
    """The modifications that were scored and can be applied here; notes name those that are left out."""
    chosen: dict[str, Modification] = {}
    for name in files.train.names:
        if name not in MODIFICATIONS:
            notes.append(f"The reasons in single images leave out {name}, which is no modification of the package.")
            continue
        try:
            chosen |= choose_modifications([name])
        except MissingPackageError as error:
            notes.append(f"The reasons in single images leave out {name}: {error}")
    return chosen
