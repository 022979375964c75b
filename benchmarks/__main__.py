"""The one door to the benchmarks: `python -m benchmarks VERB ...` calls the `main` of one file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

# By folder, with what each verb does. A file has the name of its verb, with `_` for `-`.
VERBS = {
    "ops": {
        "ops": "times the fused ops against their peers; --base REV: against another revision of this repository",
        "memory": "memory of one forward and backward beyond inputs, outputs and gradients",
    },
    "scenarios": {
        "push": "a push against the bare backbone over the same images",
        "search": "searches over stored features against the released loops, and how much memory a long one takes",
        "frozen": "training a head on stored features against the plain eager head",
        "checkpoints": "what crash-safe checkpoints cost in a training",
        "last-layer": "the last layer: solved, and in small steps",
        "importance": "importance of visible properties against bare passes and the modifications alone",
        "report": "the page of a run of 2,000 prototypes: building it, opening it, its size",
        "app": "the workbench: its first page, an answer, an edit",
        "backbone": "the pass of a frozen backbone, fused and layer by layer",
        "frames": "four sufficient frames in an image of a trained run",
        "pool-head": "the head of ProtoPool against the released formula",
        "heads": "the heads of TesNet and ProtoTree against the released formulas",
        "onnx": "exported models in onnxruntime: the share of the time that the head takes",
        "black-box": "trains a plain classifier with a recipe's backbone and budget, and stores its accuracy",
        "weights": "what weights of the patches cost a call",
        "metrics": "the search by squared distance, cosine and dot product",
    },
    "pages": {
        "tables": "the tables of README and docs from the stored rows",
        "plot": "rooflines from the stored rows",
        "summary": "the newest stored rows in a few lines",
        "accuracy": "stores accuracies of finished runs; the table of docs/results.md",
        "trust": "stores what `protokern metrics` found in runs; the table of docs/results.md",
        "measures": "stores all that `protokern metrics` found in runs; the tables of docs/results.md",
        "scaling": "what ImageNet would take, by arithmetic: docs/scaling.md",
    },
    "tools": {
        "tune": "measures tiles of the Triton kernels on a CUDA device and stores the best in the package",
        "triton-resources": "compiles every Triton launch and stores what each needs of a GPU",
    },
    "gpu": {"gpu": "everything that needs a CUDA device, most important first, within nine minutes"},
}
MODULES = {
    verb: f"benchmarks.{folder}.{verb.replace('-', '_')}" for folder, verbs in VERBS.items() for verb in verbs
} | {"ops": "benchmarks.ops.run", "gpu": "benchmarks.gpu.command"}


def overview() -> str:
    """All verbs, a line each."""
    lines = ["usage: python -m benchmarks VERB ...", ""]
    for folder, verbs in VERBS.items():
        lines.append(f"benchmarks/{folder}")
        lines += [f"  {verb:18}{sentence}" for verb, sentence in verbs.items()]
    return "\n".join([*lines, "", "VERB --help lists its options; benchmarks/README.md says how to read the results."])


def main(argv: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else argv
    verb, *rest = given or ["--help"]
    if verb in ("-h", "--help"):
        print(overview())
        return 0
    if verb not in MODULES:
        print(
            f"VERB: must be one of {', '.join(MODULES)}; got {verb!r}. python -m benchmarks lists what each does.",
            file=sys.stderr,
        )
        return 2
    # Imported only now: the other verbs may need packages that are missing here.
    return int(import_module(MODULES[verb]).main(rest))


if __name__ == "__main__":
    sys.exit(main())
