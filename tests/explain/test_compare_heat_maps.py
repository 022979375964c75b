from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from protokern.explain import explain_image
from protokern.explain.compare_heat_maps import compare_heat_maps
from protokern.explain.pictures import to_picture
from protokern.explain.views import see
from protokern.report.heat_map_figure import write_heat_map_figure
from tests.explain.small_models import small_model


def test_each_column_is_the_map_that_an_explanation_by_that_method_has() -> None:
    model, image = small_model(), torch.rand(3, 32, 32)
    comparison = compare_heat_maps(model, image, explain_image(model, image), methods=("upsample", "occlusion"))
    assert comparison.methods == ("upsample", "occlusion")
    assert comparison.left_out == ()
    assert len(comparison.rows) == 3
    for column, method in enumerate(comparison.methods):
        evidence = explain_image(model, image, heat_map=method).classes[0].matches
        for row, match in zip(comparison.rows, evidence, strict=False):
            assert row.prototype == match.prototype.index
            assert row.points == match.points
            expected = see(to_picture(image), match.view, method).heat
            np.testing.assert_array_equal(np.asarray(row.heats[column]), np.asarray(expected))


def test_what_cannot_be_used_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.delitem(sys.modules, "captum.attr", raising=False)
    model, image = small_model(), torch.rand(3, 32, 32)
    model.backbone.append(torch.nn.GELU())
    comparison = compare_heat_maps(model, image, explain_image(model, image), max_prototypes=1)
    assert comparison.methods == ("upsample", "occlusion", "rise")
    reasons = dict(comparison.left_out)
    assert list(reasons) == ["gradient", "smoothgrad", "prp"]
    assert "captum" in reasons["gradient"]
    assert "GELU" in reasons["prp"] or "zennit" in reasons["prp"]
    path = tmp_path / "maps.png"
    write_heat_map_figure(comparison, path)
    with Image.open(path) as figure:
        assert figure.width > 2 * figure.height  # one row of four columns


def test_an_unknown_method_is_refused() -> None:
    model, image = small_model(), torch.rand(3, 32, 32)
    with pytest.raises(ValueError, match="heat_map: must be one of"):
        compare_heat_maps(model, image, explain_image(model, image), methods=("lime",))
    with pytest.raises(ValueError, match="max_prototypes: must be at least 1; got 0"):
        compare_heat_maps(model, image, explain_image(model, image), max_prototypes=0)
