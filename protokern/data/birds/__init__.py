"""Synthetic birds: painted from nothing but a seed, with known parts. For trying, testing and showing the package."""

from protokern.data.birds.dataset import ANNOTATED_PARTS, BirdAnnotation, SyntheticBirds
from protokern.data.birds.species import MAX_SPECIES, PARTS, Species, species_of

__all__ = ["ANNOTATED_PARTS", "MAX_SPECIES", "PARTS", "BirdAnnotation", "Species", "SyntheticBirds", "species_of"]
