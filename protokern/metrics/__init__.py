"""How far explanations can be trusted, in numbers. One file per measure; results are plain data."""

from protokern.metrics.concentration import Concentration, concentration_of
from protokern.metrics.context import FILLS, Context, Region
from protokern.metrics.duplicates import Pair, find_duplicates
from protokern.metrics.left_alone import similarity_left
from protokern.metrics.measure import measure
from protokern.metrics.on_object import ObjectShares, object_shares
from protokern.metrics.patches import patches_on
from protokern.metrics.registry import MEASURES
from protokern.metrics.results import Estimate, MeasureResult, estimate

__all__ = [
    "FILLS",
    "MEASURES",
    "Concentration",
    "Context",
    "Estimate",
    "MeasureResult",
    "ObjectShares",
    "Pair",
    "Region",
    "concentration_of",
    "estimate",
    "find_duplicates",
    "measure",
    "object_shares",
    "patches_on",
    "similarity_left",
]
