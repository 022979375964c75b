"""Why an image was classified as it was: points, patches, heat maps, boxes, receptive fields. No files, no pages."""

from protokern.explain.boxes import Box, activation_box, patch_box
from protokern.explain.local import ClassExplanation, Evidence, Explanation, PatchView, explain_image
from protokern.explain.receptive_field import ReceptiveField, find_receptive_field

__all__ = [
    "Box",
    "ClassExplanation",
    "Evidence",
    "Explanation",
    "PatchView",
    "ReceptiveField",
    "activation_box",
    "explain_image",
    "find_receptive_field",
    "patch_box",
]
