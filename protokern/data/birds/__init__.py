"""Synthetic birds: painted from nothing but a seed, with known parts. For trying, testing and showing the package."""

from protokern.data.birds.annotation import ANNOTATED_PARTS, BirdAnnotation
from protokern.data.birds.dataset import SyntheticBirds
from protokern.data.birds.species import MAX_SPECIES, PARTS, Species, species_of

__all__ = ["ANNOTATED_PARTS", "MAX_SPECIES", "PARTS", "BirdAnnotation", "Species", "SyntheticBirds", "species_of"]
