"""Heat maps by hiding, against nets whose answer is known: the mean of the pixels of one cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from protokern.explain import explain_image
from protokern.explain.masked_maps import occlusion_maps, rise_maps
from protokern.explain.similarity import Place
from protokern.models import ProtoPNet
from tests.explain.small_models import small_model, small_pool

SIDE, CELL = 56, 14  # four by four cells


def mean_of_cells() -> ProtoPNet:
    """The similarity of prototype 0 to a cell is the mean of the cell's pixels."""
    conv = nn.Conv2d(3, 2, CELL, CELL, bias=False)
    settings = {"prototype_dim": 2, "add_on_layers": "linear", "image_size": SIDE, "metric": "dot"}
    model = ProtoPNet(nn.Sequential(conv), 2, prototypes_per_class=1, activation="linear", **settings).eval()
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0].fill_(1 / (3 * CELL**2))
        conv.weight[1].fill_(-1 / (3 * CELL**2))
        model.add_on_layers[0].weight.copy_(torch.eye(2)[:, :, None, None])
        model.add_on_layers[0].bias.zero_()
        model.prototype_layer.prototypes.copy_(torch.eye(2))
    return model


def test_occlusion_is_the_mean_fall_over_the_windows_that_hide_a_pixel() -> None:
    model = mean_of_cells()
    image = torch.ones(3, SIDE, SIDE)
    (heat,) = occlusion_maps(model, image, [Place(0, (1, 2))])
    expected, count = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
    cell = np.zeros((SIDE, SIDE))
    cell[CELL : 2 * CELL, 2 * CELL : 3 * CELL] = 1
    window = SIDE // 7
    for y0 in range(0, SIDE - window + 1, window // 2):
        for x0 in range(0, SIDE - window + 1, window // 2):
            inside = np.s_[y0 : y0 + window, x0 : x0 + window]
            expected[inside] += 0.5 * cell[inside].sum() / CELL**2  # from 1 to the grey of 0.5
            count[inside] += 1
    np.testing.assert_allclose(heat, expected / count, rtol=1e-4, atol=1e-6)


def test_what_speaks_against_a_prototype_is_no_heat() -> None:
    (heat,) = occlusion_maps(mean_of_cells(), torch.ones(3, SIDE, SIDE), [Place(1, (1, 2))])
    np.testing.assert_allclose(heat, 0, atol=1e-6)


def test_rise_is_highest_where_pixels_matter_and_near_zero_elsewhere() -> None:
    (heat,) = rise_maps(mean_of_cells(), torch.ones(3, SIDE, SIDE), [Place(0, (1, 2))], masks=400)
    assert heat.dtype == np.float32
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert CELL <= y < 2 * CELL
    assert 2 * CELL <= x < 3 * CELL
    inside = heat[CELL : 2 * CELL, 2 * CELL : 3 * CELL].mean()
    assert inside > 8 * heat[3 * CELL :, :CELL].mean()


def test_rise_is_the_mean_under_its_masks_less_the_mean_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """With masks that show one cell each, it is the cell's similarity less that of the mean mask."""
    masks = torch.zeros(4, SIDE, SIDE)
    for k in range(4):
        masks[k, CELL : 2 * CELL, k * CELL : (k + 1) * CELL] = 1
    given = iter(masks)
    monkeypatch.setattr("protokern.explain.masked_maps._soft_mask", lambda *_: next(given))
    (heat,) = rise_maps(mean_of_cells(), torch.ones(3, SIDE, SIDE), [Place(0, (1, 2))], masks=4)
    expected = np.zeros((SIDE, SIDE))
    expected[CELL : 2 * CELL, 2 * CELL : 3 * CELL] = 1 - (1 + 3 * 0.5) / 4
    np.testing.assert_allclose(heat, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["occlusion", "rise"])
@pytest.mark.parametrize("make", [small_model, small_pool])
def test_maps_do_not_depend_on_company_modes_or_the_generator(method: str, make) -> None:
    model = make()
    model.train()
    image = torch.rand(3, 29, 40)
    maps = {"occlusion": occlusion_maps, "rise": lambda *a: rise_maps(*a, masks=30)}[method]
    state = torch.get_rng_state()
    both = maps(model, image, [Place(0, (1, 2)), Place(3, (0, 0))])
    (alone,) = maps(model, image, [Place(3, (0, 0))])
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    np.testing.assert_allclose(both[1], alone, atol=1e-6)
    assert both[0].shape == (29, 40)
    assert (both[0] >= 0).all()


def test_an_explanation_shows_nothing_outside_the_receptive_field() -> None:
    model = small_model()
    explanation = explain_image(model, torch.rand(3, 32, 40), top=2, heat_map="occlusion")
    for evidence in explanation.classes[0].evidence:
        heat, (y0, x0, y1, x1) = evidence.view.heat_map.copy(), evidence.view.receptive_field_box
        assert heat.any()
        heat[y0:y1, x0:x1] = 0
        assert not heat.any()


def test_bad_arguments_are_refused() -> None:
    image: Tensor = torch.rand(3, 32, 32)
    with pytest.raises(ValueError, match=r"patch: must be in the grid of 8 x 8 patches; got \(8, 0\)"):
        occlusion_maps(small_model(), image, [Place(0, (8, 0))])
    with pytest.raises(ValueError, match="masks: must be at least 1; got 0"):
        rise_maps(small_model(), image, [Place(0, (0, 0))], masks=0)
    assert rise_maps(small_model(), image, []) == occlusion_maps(small_model(), image, []) == []
