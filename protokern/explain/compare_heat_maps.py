"""All heat maps of the reasons of one answer: where they agree, and where they do not."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from protokern.errors import MissingPackageError
from protokern.explain.heat_maps import HEAT_MAPS, check_heat_map
from protokern.explain.pictures import to_picture
from protokern.explain.relevance import NoRuleError
from protokern.explain.views import see, with_heat_map
from protokern.models.base import PrototypeModel
from protokern.results.explanations import Explanation
from protokern.results.heat_maps import HeatMapComparison, HeatMapRow

COMPARED = 3  # prototypes


def compare_heat_maps(
    model: PrototypeModel,
    image: Tensor,
    explanation: Explanation,
    *,
    methods: Sequence[str] = HEAT_MAPS,
    max_prototypes: int = COMPARED,
) -> HeatMapComparison:
    """Make the heat maps of an answer's first prototypes by several methods.

    Args:
        model: of the explanation.
        image: (C, Y, X) in [0, 1], the explained one.
        explanation: with upsampled heat maps.
        methods: of HEAT_MAPS. One whose package is missing, or that has no rule for a layer of the net, is left out,
            and the result says why.
        max_prototypes: how many are compared, at least 1.

    Raises:
        ValueError: a method is unknown, or `max_prototypes` is below 1.
    """
    if max_prototypes < 1:
        raise ValueError(f"max_prototypes: must be at least 1; got {max_prototypes}.")
    one = explanation.classes[0]
    matches = [match for match in one.matches if match.is_present is not False][:max_prototypes]
    views, picture = [match.view for match in matches], to_picture(image)
    columns, left_out = {}, []
    for method in methods:
        try:
            check_heat_map(method, model)
        except (MissingPackageError, NoRuleError) as error:
            left_out.append((method, str(error)))
            continue
        mapped = with_heat_map(model, image, views, method)
        columns[method] = [see(picture, view, method).heat for view in mapped]
    rows = (
        HeatMapRow(
            prototype=match.prototype.index,
            points=match.points,
            seen=match.picture,
            heats=tuple(heats[row] for heats in columns.values()),
        )
        for row, match in enumerate(matches)
    )
    return HeatMapComparison(
        name=explanation.name,
        answer=one.class_name,
        methods=tuple(columns),
        rows=tuple(rows),
        left_out=tuple(left_out),
    )
