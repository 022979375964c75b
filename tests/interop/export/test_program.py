"""Programs of torch: the plain one runs where protokern is not installed, both answer as the model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from protokern.errors import ExportError
from protokern.interop.export import program
from protokern.interop.export.plain_net import PlainNet
from protokern.interop.export.source import ExportOptions
from protokern.interop.export.trace import trace
from tests.interop.export.nets import SIZE, make, source_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class _Choosing(nn.Module):
    """A backbone whose way depends on the numbers in the images."""

    def forward(self, images: Tensor) -> Tensor:
        return images if float(images.sum()) > 0 else -images


_WITHOUT = """
import sys, torch
sys.modules["protokern"] = None
tensors = torch.load(sys.argv[2])
run = torch.export.load(sys.argv[1]).module()
for images, logits, patch in tensors:
    got = run(images)
    torch.testing.assert_close(got["logits"], logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(got["patch"], patch)
assert "protokern.kernels" not in sys.modules
"""


@pytest.mark.slow
@torch.no_grad()
def test_a_plain_program_runs_where_protokern_is_not_installed(tmp_path: Path) -> None:
    model = make("log")
    lines = program.write(source_of(model, "protopnet"), ExportOptions(), tmp_path)
    assert [line.partition(":")[0] for line in lines] == ["plain.pt2", "fused.pt2"]
    assert {path.name for path in tmp_path.iterdir()} == {"plain.pt2", "fused.pt2"}
    tensors = []
    for shape in ((1, 3, SIZE, SIZE), (4, 3, SIZE + 9, SIZE + 30)):
        images = torch.rand(shape)
        output = model(images)
        tensors.append((images, output.logits, output.patches))
    torch.save(tensors, tmp_path / "tensors.pt")
    command = [sys.executable, "-c", _WITHOUT, str(tmp_path / "plain.pt2"), str(tmp_path / "tensors.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    fused = torch.export.load(tmp_path / "fused.pt2")
    called = {str(node.target) for node in fused.graph.nodes if node.op == "call_function"}
    plain = torch.export.load(tmp_path / "plain.pt2")
    others = {str(node.target) for node in plain.graph.nodes if node.op == "call_function"}
    assert any(name.startswith("protokern.") for name in called)
    assert not any("protokern" in name for name in others)


def test_a_net_that_pads_by_the_size_keeps_its_size(tmp_path: Path) -> None:
    source = source_of(make("salient by a stage"), "protopnet")
    first, *_ = program.write(source, ExportOptions(), tmp_path)
    assert first == "The size of images is fixed, because convolutions of the backbone pad by it."


def test_a_net_that_torch_cannot_trace_is_refused_in_a_line() -> None:
    model = make("log")
    model.backbone = _Choosing()
    message = r"model: must be one that torch can trace; it cannot \([^\n]*\)\. Use --size fixed\."
    with pytest.raises(ExportError, match=message):
        trace(PlainNet(model).eval(), (SIZE, SIZE), 3, any_size=True)
