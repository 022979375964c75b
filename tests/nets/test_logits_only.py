"""Nets that give logits alone, and the programs for attribution that the examples hand them to."""

from __future__ import annotations

import re
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from protokern import LogitsOnly
from protokern.models.ensemble import Ensemble
from tests.explain.small_models import small_model, small_pool
from tests.interop.test_released import pp_net

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "attribution"
PACKAGES = {"captum": "captum", "grad_cam": "pytorch_grad_cam", "quantus": "quantus", "zennit": "zennit"}


def test_every_kind_of_net_gives_its_logits() -> None:
    images = torch.rand(2, 3, 32, 32)
    model, pool, released = small_model(), small_pool(), pp_net().eval()
    with torch.no_grad():
        for net in (model, pool, Ensemble([model, pool])):
            assert torch.equal(LogitsOnly(net)(images), net(images).logits)
        assert torch.equal(LogitsOnly(released)(images), released(images)[0])
        assert torch.equal(LogitsOnly(nn.Flatten())(images), images.flatten(1))


def test_it_is_in_the_mode_of_its_net_and_passes_gradients() -> None:
    model, images = small_model(), torch.rand(1, 3, 32, 32, requires_grad=True)
    assert not LogitsOnly(model).training
    assert LogitsOnly(model.train()).training
    LogitsOnly(model.eval())(images)[0, 0].backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_what_gives_no_logits_is_refused() -> None:
    class Words(nn.Module):
        def forward(self, images: torch.Tensor) -> str:
            return "a wren"

    with pytest.raises(ValueError, match="net: must give logits, or a tuple that begins with them; got str"):
        LogitsOnly(Words())(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("program", PACKAGES)
def test_the_example_of_each_program_runs(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_spec(PACKAGES[program]) is None:
        pytest.skip(f"{PACKAGES[program]} is not installed")
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, "birds", raising=False)
    runpy.run_path(str(EXAMPLES / f"with_{program}.py"), run_name="__main__")
    said = capsys.readouterr().out
    if program in ("captum", "zennit"):
        attributed, gained = map(float, re.findall(r"-?\d+\.\d+", said))
        assert attributed == pytest.approx(gained, rel=0.02)  # the integral is a sum of 400 steps
        assert abs(gained) > 0.5
    elif program == "grad_cam":
        assert "a map of 64 x 64 pixels from 0.00 to 1.00" in said
    else:
        assert -1 <= float(said.split()[-1]) <= 1
