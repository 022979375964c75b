"""Why an image was classified as it was: points, patches, heat maps, boxes, receptive fields; and reports of runs."""

from protokern.explain.boxes import activation_box, patch_box
from protokern.explain.collect import build_report, collect_report
from protokern.explain.compare_heat_maps import compare_heat_maps
from protokern.explain.framing import FRAMES, frame_explanation
from protokern.explain.heat_maps import HEAT_MAPS, gradient_heat_map, pixel_heat_maps
from protokern.explain.images import explain_images
from protokern.explain.importance import importance, local_importance
from protokern.explain.local import explain_image
from protokern.explain.modifications import MODIFICATIONS, choose_modifications
from protokern.explain.neighbours import find_neighbours, view_neighbours
from protokern.explain.receptive_field import find_receptive_field
from protokern.explain.shown import Explanation, Report
from protokern.explain.strangers import class_thresholds
from protokern.explain.sufficient import FrameTarget, sufficient_frame, sufficient_frames
from protokern.results.explanations import ClassExplanation, Evidence
from protokern.results.importance import GlobalImportance, LocalImportance
from protokern.results.places import Box, PatchView, ReceptiveField, SufficientFrame
from protokern.results.prototypes import GlobalExplanation, SplitNeighbours

__all__ = [
    "FRAMES",
    "HEAT_MAPS",
    "MODIFICATIONS",
    "Box",
    "ClassExplanation",
    "Evidence",
    "Explanation",
    "FrameTarget",
    "GlobalExplanation",
    "GlobalImportance",
    "LocalImportance",
    "PatchView",
    "ReceptiveField",
    "Report",
    "SplitNeighbours",
    "SufficientFrame",
    "activation_box",
    "build_report",
    "choose_modifications",
    "class_thresholds",
    "collect_report",
    "compare_heat_maps",
    "explain_image",
    "explain_images",
    "find_neighbours",
    "find_receptive_field",
    "frame_explanation",
    "gradient_heat_map",
    "importance",
    "local_importance",
    "patch_box",
    "pixel_heat_maps",
    "sufficient_frame",
    "sufficient_frames",
    "view_neighbours",
]
