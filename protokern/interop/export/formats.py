"""The formats, one row each: what a command may choose from, and which files each writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from protokern.interop.export import hub, onnx_file, program
from protokern.interop.export.source import ExportOptions, ExportSource


class Format(NamedTuple):
    """A format.

    Attributes:
        purpose: in a few words.
        files: names of the files that `write` writes.
        write: writes them into a folder, checks them, and returns lines about them.
    """

    purpose: str
    files: Callable[[ExportSource, ExportOptions], tuple[str, ...]]
    write: Callable[[ExportSource, ExportOptions, Path], list[str]]


FORMATS: dict[str, Format] = {
    "onnx": Format("a file for onnxruntime and other runtimes", onnx_file.files, onnx_file.write),
    "torch": Format("programs of torch.export, for processes with torch", program.files, program.write),
    "hub": Format("a folder in the shape of the model hubs, with a card", hub.files, hub.write),
}
