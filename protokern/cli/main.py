"""The command `protokern VERB ...`: finds the verb, shows errors as one line, decides the exit code.

0: done. 1: a bug in the program. 2: an error that the user can fix. 130: stopped by Ctrl-C. 143: stopped by SIGTERM.
With --debug an error or a bug shows its traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import protokern
from protokern.cli.faults import mistake_in_words, write_fault
from protokern.cli.process import keep_freed_memory, printing_any_name, show_warnings_once
from protokern.errors import ConfigError, OtherProcessError, ProtokernError
from protokern.storage.names import one_line

FAULT, MISTAKE, INTERRUPTED, CLOSED = 1, 2, 130, 141

# Verb, and what it does. Each is a module of this package with `add_arguments(parser)` and `run(args) -> int`.
VERBS = (
    ("train", "train a model on a folder of images, or on synthetic birds"),
    ("new", "write a file with the settings for a data folder, to change and train with"),
    ("data", "say what a data folder has: classes, images, annotations, leaks"),
    ("import", "make a run of a network that a released program trained"),
    ("evaluate", "accuracy of a trained model"),
    ("push", "make every prototype its nearest training patch, as after new data"),
    ("prune", "drop prototypes whose nearest patches are mostly of other classes"),
    ("edit", "apply edits to the prototypes of a run, and write the run that they make"),
    ("app", "open a page on which runs are questioned and corrected"),
    ("explain", "show why an image is classified as it is"),
    ("importance", "how much hue, shape, texture ... matter to every prototype"),
    ("metrics", "measure how far the explanations of a run can be trusted"),
    ("neighbours", "show the nearest patches of every prototype in the training and test images"),
    ("prototypes", "draw the prototypes of a run in a grid"),
    ("report", "write the page of a run"),
    ("log", "hand the log of a run to TensorBoard or Weights & Biases"),
    ("export", "write a trained model as files for other programs: ONNX and others"),
    ("settings", "every setting of a run: default, values, meaning"),
    ("recipes", "the recipes that train --recipe takes, and what is in them"),
    ("doctor", "versions, backends, and why one is missing"),
)


class _Help(argparse.HelpFormatter):
    """Puts every verb and its purpose on one line, because argparse ignores the indent of the verbs in their width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = max(len(name) for name, _ in VERBS) + 2 * self._indent_increment


class _Parser(argparse.ArgumentParser):
    """Shows an error in one line, as all other errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"{self.prog}: {message}. See '{self.prog} --help'.\n" if _is_first_process() else None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments after the program's name; None: those of the process.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # What is known about the command while its verb and the libraries it needs are imported.
    args = argparse.Namespace(verb=arguments[0] if arguments else "", debug="--debug" in arguments)
    try:
        args = _parse(arguments)
        keep_freed_memory()
        if args.verb != "train" and int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
            if not _is_first_process():
                return MISTAKE
            raise ConfigError("torchrun: must start 'train', which alone runs in several processes. Start it alone.")
        with warnings.catch_warnings(), printing_any_name():
            warnings.showwarning = show_warnings_once()
            code: int = import_module(f"protokern.cli.{args.verb}").run(args)
    except SystemExit as stop:  # argparse ends --help and errors in this way
        return stop.code if isinstance(stop.code, int) else MISTAKE
    except OtherProcessError:  # the other process has printed why
        return MISTAKE
    except BrokenPipeError:  # the reader of the output has closed it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - Python flushes it as it ends
        return CLOSED
    except KeyboardInterrupt:
        print(f"protokern {args.verb}: stopped", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if args.debug:
            raise
        return _tell(args, arguments, error)
    return code


def _tell(args: argparse.Namespace, arguments: Sequence[str], error: Exception) -> int:
    """Print in one line what went wrong; return the exit code."""
    message = mistake_in_words(error)
    if isinstance(error, OSError) and error.filename:
        message = f"{_name_file(error.filename)}: {error.strerror}"
    elif isinstance(error, (ProtokernError, OSError)):
        message = str(error)
    if message is None:
        print(write_fault(args.verb, arguments, error, _run_folder(args)), file=sys.stderr)
        return FAULT
    print(f"protokern {args.verb}: {one_line(message)}", file=sys.stderr)
    return MISTAKE


def _name_file(file: object) -> str:
    return os.fsdecode(file) if isinstance(file, (str, bytes, os.PathLike)) else f"file {file}"


def _run_folder(args: argparse.Namespace) -> Path | None:
    """The run folder of the command, if there is one."""
    path = Path(getattr(args, "run", None) or getattr(args, "out", None) or "")
    folders = [path, path.parent.parent] if path.parts else []
    return next((folder for folder in folders if (folder / "checkpoints").is_dir()), None)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="protokern", description="Prototypical-part networks: this looks like that.", formatter_class=_Help
    )
    parser.add_argument("--version", action="version", version=f"protokern {protokern.__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    for name, purpose in VERBS:
        verb = verbs.add_parser(name, help=purpose, description=purpose[0].upper() + purpose[1:] + ".")
        if name in arguments[:1]:  # import only this verb: others may take seconds
            import_module(f"protokern.cli.{name}").add_arguments(verb)
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def _is_first_process() -> bool:
    """Whether this is the first of the processes that torchrun started; works before they are connected."""
    return os.environ.get("RANK", "0") == "0"
