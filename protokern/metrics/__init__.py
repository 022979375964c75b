"""How far explanations can be trusted, in numbers. One file per measure; results are plain data."""

from protokern.metrics.accuracy import calibration_error
from protokern.metrics.concentration import Concentration, concentration_of, shares_of_largest
from protokern.metrics.consistency import best_part
from protokern.metrics.context import FILLS, PROTOCOLS, Annotations, Context, Part, Region
from protokern.metrics.duplicates import Pair, find_duplicates
from protokern.metrics.evaluate import evaluate
from protokern.metrics.left_alone import similarity_left
from protokern.metrics.measure import measure
from protokern.metrics.object_maps import MapShares, map_shares
from protokern.metrics.on_object import ObjectShares, object_shares
from protokern.metrics.part_boxes import parts_around, parts_around_peak
from protokern.metrics.patches import patches_on
from protokern.metrics.purity import purity_of
from protokern.metrics.registry import MEASURES
from protokern.metrics.results import Estimate, MeasureResult, estimate
from protokern.metrics.size import WeightCounts, local_size, sparsity_of, weight_counts
from protokern.metrics.table import MetricTable

__all__ = [
    "FILLS",
    "MEASURES",
    "PROTOCOLS",
    "Annotations",
    "Concentration",
    "Context",
    "Estimate",
    "MapShares",
    "MeasureResult",
    "MetricTable",
    "ObjectShares",
    "Pair",
    "Part",
    "Region",
    "WeightCounts",
    "best_part",
    "calibration_error",
    "concentration_of",
    "estimate",
    "evaluate",
    "find_duplicates",
    "local_size",
    "map_shares",
    "measure",
    "object_shares",
    "parts_around",
    "parts_around_peak",
    "patches_on",
    "purity_of",
    "shares_of_largest",
    "similarity_left",
    "sparsity_of",
    "weight_counts",
]
