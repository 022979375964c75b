"""A prototype net as an estimator of scikit-learn. Importing this package needs scikit-learn."""

from protokern.errors import import_optional

import_optional("sklearn", package="scikit-learn", needed_for="protokern.sklearn", install="'protokern[sklearn]'")

from protokern.sklearn.classifier import PrototypeClassifier  # noqa: E402 - its import needs scikit-learn
from protokern.sklearn.inputs import compute_maps  # noqa: E402

__all__ = ["PrototypeClassifier", "compute_maps"]
