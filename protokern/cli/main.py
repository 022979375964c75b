"""The command `protokern VERB ...`: finds the verb, shows mistakes as one line, decides the exit code.

0: done. 2: a mistake that the user can mend. 130: stopped by Ctrl-C, 143: by SIGTERM. With --debug a mistake shows its
traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import protokern
from protokern.cli.allocator import keep_freed_memory
from protokern.cli.printing import one_line, printing_any_name, show_warnings_once
from protokern.errors import ConfigError, OtherProcessError, ProtokernError

MISTAKE, INTERRUPTED = 2, 130

# Verb, and what it does. Each is a module of this package with `add_arguments(parser)` and `run(args) -> int`.
VERBS = (
    ("train", "train a model on a folder of images, or on synthetic birds"),
    ("evaluate", "accuracy of a trained model"),
    ("push", "make every prototype its nearest training patch, as after new data"),
    ("prune", "drop prototypes whose nearest patches are mostly of other classes"),
    ("explain", "show why an image is classified as it is"),
    ("importance", "how much hue, shape, texture ... matter to every prototype"),
    ("neighbours", "show the nearest patches of every prototype in the training and test images"),
    ("prototypes", "draw the prototypes of a run in a grid"),
    ("report", "write the page of a run"),
    ("doctor", "versions, backends, and why one is missing"),
)


class _Help(argparse.HelpFormatter):
    """Puts every verb and its purpose on one line: argparse forgets the verbs' indent when it measures them."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = max(len(name) for name, _ in VERBS) + 2 * self._indent_increment


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all other mistakes are said."""

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
    try:
        args = _parse(arguments)
    except SystemExit as stop:  # argparse ends --help and mistakes in this way
        return stop.code if isinstance(stop.code, int) else MISTAKE
    keep_freed_memory()
    try:
        if args.verb != "train" and int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
            if not _is_first_process():
                return MISTAKE
            raise ConfigError("torchrun: must start 'train', which alone runs in several processes. Start it alone.")
        with warnings.catch_warnings(), printing_any_name():
            warnings.showwarning = show_warnings_once()
            code: int = import_module(f"protokern.cli.{args.verb}").run(args)
    except OtherProcessError:  # which has said why
        return MISTAKE
    except (ProtokernError, OSError) as error:
        if args.debug:
            raise
        message = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        print(f"protokern {args.verb}: {one_line(message)}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print(f"protokern {args.verb}: stopped", file=sys.stderr)
        return INTERRUPTED
    return code


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="protokern", description="Prototypical-part networks: this looks like that.", formatter_class=_Help
    )
    parser.add_argument("--version", action="version", version=f"protokern {protokern.__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    for name, purpose in VERBS:
        verb = verbs.add_parser(name, help=purpose, description=purpose[0].upper() + purpose[1:] + ".")
        if name in arguments[:1]:  # only the verb at hand is imported: others may take seconds
            import_module(f"protokern.cli.{name}").add_arguments(verb)
        verb.add_argument("--debug", action="store_true", help="show the traceback of a mistake")
    return parser.parse_args(arguments)


def _is_first_process() -> bool:
    """Whether this process speaks for all that torchrun started, before they know each other."""
    return os.environ.get("RANK", "0") == "0"
