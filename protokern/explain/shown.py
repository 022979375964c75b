"""Explanations and reports that show themselves: in a notebook by their name alone, elsewhere by `save`."""

from __future__ import annotations

from dataclasses import dataclass

from protokern.results import explanations, run


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation(explanations.Explanation):
    __doc__ = explanations.Explanation.__doc__


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(run.Report):
    __doc__ = run.Report.__doc__
