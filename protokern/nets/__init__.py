"""A net in one object: open a run or wrap a network, then ask for answers, explanations and prototypes."""

from protokern.nets.gallery import Gallery
from protokern.nets.nearest import NearestExamples, nearest_examples
from protokern.nets.net import Net, load, wrap

__all__ = ["Gallery", "NearestExamples", "Net", "load", "nearest_examples", "wrap"]
