"""Programs of torch: one of plain operations, for any process with torch, and one with the fused ops of protokern."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from protokern.interop.export.agreement import check_agreement, check_images
from protokern.interop.export.plain_net import Answers, PlainNet
from protokern.interop.export.source import ExportOptions, ExportSource
from protokern.interop.export.trace import FusedNet, pads_by_size, quiet, trace

PLAIN, FUSED = "plain.pt2", "fused.pt2"


def files(source: ExportSource, options: ExportOptions) -> tuple[str, ...]:
    """The names of what `write` writes."""
    return (PLAIN, FUSED)


def write(source: ExportSource, options: ExportOptions, folder: Path) -> list[str]:
    """Write both programs into a folder, load and run them, and say how they agree with the model.

    Raises:
        ExportError: torch cannot trace the model, or a program does not answer as the model does.
    """
    lines = []
    any_size = options.any_size and not pads_by_size(source.model.backbone)
    if options.any_size and not any_size:
        lines.append("The size of images is fixed, because convolutions of the backbone pad by it.")
    batches = check_images(source, any_size=any_size)
    for name, net in ((PLAIN, PlainNet(source.model, options.repair)), (FUSED, FusedNet(source.model))):
        program = trace(net.eval(), source.image_size, source.channels, any_size=any_size)
        with quiet():
            if name == PLAIN:
                program = program.run_decompositions()
            torch.export.save(program, folder / name)
            loaded = torch.export.load(folder / name)
        agreement = check_agreement(source, Run(loaded), batches, name)
        lines.append(f"{name}: {agreement.in_words()}")
    return lines


class Run:
    """A loaded program as a function of images (B, C, Y, X)."""

    def __init__(self, program: ExportedProgram) -> None:
        self._module = program.module()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Mapping[str, np.ndarray]:
        answers: Answers = self._module(images)
        return {name: value.numpy() for name, value in answers.items()}
