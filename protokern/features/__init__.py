"""Feature maps of a backbone that no longer learns, written once and then read from the disk.

A store holds the features of every image of one data set. This package knows nothing of models, images or training.
"""

from protokern.features.fingerprint import EAGER, Fingerprint, fingerprint_of_files, fingerprint_of_weights
from protokern.features.layout import Precision
from protokern.features.store import FeatureStore
from protokern.features.writer import FeatureWriter, check_store_place

__all__ = [
    "EAGER",
    "FeatureStore",
    "FeatureWriter",
    "Fingerprint",
    "Precision",
    "check_store_place",
    "fingerprint_of_files",
    "fingerprint_of_weights",
]
