"""Reads pickles without running anything that they ask for.

A pickle is a program for a machine with a stack. Here that machine makes numbers, texts, lists, tuples, dictionaries,
and descriptions of tensors; an `Inert` takes the place of every other object, and no code of any class is run. The
work and the memory are bounded by the limits below, whatever the bytes are.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from mmap import mmap
from typing import Any

from protokern.errors import CheckpointError

from .stand_ins import LARGEST_COUNT, Inert, Name, StoredNumbers, find_storage, set_items, stand_in

MOST_BYTES = 1 << 24  # of one pickle; that of a whole DenseNet-201 has less than a megabyte
MOST_OPERATIONS = 600_000  # of all pickles of a file; the same net with the state of its optimizer has 200,000
_LONGEST = 1 << 20  # bytes of a string, such as the source text of a class
_LONGEST_BESIDE = 1 << 12  # where strings may be the numbers of tensors
MAGIC = 0x1950A86A20F9469CFC6C  # at the beginning of torch's old files
# What pickletools, struct and Python raise for bytes that are no pickle.
_BROKEN = (ValueError, IndexError, TypeError, AttributeError, struct.error, OverflowError)


class Budget:
    """How many operations are left for the pickles of a file."""

    def __init__(self, operations: int = MOST_OPERATIONS) -> None:
        self.left = operations

    def take(self, count: int = 1) -> None:
        """Take some.

        Raises:
            CheckpointError: there are not so many left.
        """
        self.left -= count
        if self.left < 0:
            raise CheckpointError(f"has more than {MOST_OPERATIONS:,} operations, which no network needs")


def read_pickle(
    stream: mmap, budget: Budget, *, storages: bool = True, seen: Callable[[StoredNumbers], Any] = lambda _: None
) -> Any:
    """The object of the pickle at the position of a mapped file, which is then at its end.

    Args:
        stream: the file.
        budget: of operations.
        storages: whether it may name storages, as `torch.save` does.
        seen: called with every storage that it names.

    Returns:
        None, bool, int, float, str, bytes, list, tuple, dict, `Name`, `Inert`, `StoredNumbers` or `TensorRecord`.
        Ordered dictionaries are dict, sets are list. Entries whose keys are something else than numbers, texts, `Inert`
        or short tuples of them are left out, and so are strings of more than a megabyte.

    Raises:
        CheckpointError: it is no pickle, is cut off, or exceeds a limit. The message is the end of a sentence.
    """
    machine = _Machine(budget, storages, seen)
    source: Any = _Bounded(stream, _LONGEST if storages else _LONGEST_BESIDE)  # all that genops uses of a file
    try:
        for operation, argument, _ in pickletools.genops(source):
            budget.take()
            if machine.run(operation.name, argument):
                return machine.result()
    except _BROKEN as error:
        raise CheckpointError(f"is no whole pickle ({str(error)[:80]})") from error
    raise CheckpointError("is no whole pickle (it does not end)")


class _Skipped:
    """Bytes that were not read."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


class _Bounded:
    """A file that ends after `MOST_BYTES`, and passes over long strings without reading them."""

    def __init__(self, stream: mmap, longest: int) -> None:
        self._stream, self._left, self._longest = stream, MOST_BYTES, longest
        self.tell = stream.tell

    def read(self, size: int) -> bytes | _Skipped:
        if size > self._longest:
            self._stream.seek(size, 1)  # a ValueError beyond the end
            return _Skipped(size)
        self._take(size)
        return self._stream.read(size)

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise CheckpointError(f"is a pickle of more than {MOST_BYTES >> 20} MB")

    def readline(self) -> bytes:
        end = self._stream.find(b"\n", self._stream.tell(), self._stream.tell() + _LONGEST)
        self._take(end + 1 - self._stream.tell())
        return self._stream.readline() if end >= 0 else b""


class _Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(self, budget: Budget, storages: bool, seen: Callable[[StoredNumbers], Any]) -> None:
        self.stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks below the marks
        self._memo: dict[int, Any] = {}
        self._budget, self._storages, self._seen = budget, storages, seen

    def run(self, name: str, argument: Any) -> bool:
        """Do one operation; whether it was the last one."""
        if name in _PUSHES:
            self.stack.append(_checked_constant(argument))
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        elif name == "STOP":
            return True
        elif name not in ("PROTO", "FRAME"):
            raise CheckpointError(f"uses the operation {name}, which torch.save does not")
        return False

    def result(self) -> Any:
        if len(self.stack) != 1 or self._below:
            raise ValueError("its stack is not empty at the end")
        return self.stack[0]

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self._below.pop()
        return items

    def drop_to_mark(self, _: Any) -> None:
        self.pop_to_mark()

    def mark(self, _: Any) -> None:
        self._below.append(self.stack)
        self.stack = []

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_to_mark()

    def pop_pair(self) -> tuple[Any, Any]:
        last = self.stack.pop()
        return self.stack.pop(), last

    def put(self, index: int) -> None:
        self._memo[index] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self._memo:
            raise ValueError(f"entry {index} of its memo was never written")
        self.stack.append(self._memo[index])

    def make_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("its stack is too short")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        self.stack.append(tuple(items))

    def tuple_to_mark(self, _: Any) -> None:
        items = self.pop_to_mark()
        self.stack.append(tuple(items))

    def list_to_mark(self, _: Any) -> None:
        items = self.pop_to_mark()
        self.stack.append(items)

    def dict_to_mark(self, _: Any) -> None:
        items = self.pop_to_mark()
        made: dict[Any, Any] = {}
        set_items(made, items)
        self.stack.append(made)

    def append(self, _: Any) -> None:
        target, value = self.pop_pair()
        self._extend(target, [value])

    def appends(self, _: Any) -> None:
        items = self.pop_to_mark()
        self._extend(self.stack.pop(), items)

    def _extend(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Inert):
            raise ValueError("it appends to something that is no list")
        self.stack.append(target)

    def set_item(self, _: Any) -> None:
        value = self.stack.pop()
        target, key = self.pop_pair()
        set_items(target, [key, value])
        self.stack.append(target)

    def set_items(self, _: Any) -> None:
        items = self.pop_to_mark()
        set_items(self.stack[-1], items)

    def name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(Name(f"{module}.{name}"))

    def name_from_stack(self, _: Any) -> None:
        module, name = self.pop_pair()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("it names a class by something that is no text")
        self.stack.append(Name(f"{module}.{name}"))

    def call(self, _: Any) -> None:
        function, arguments = self.pop_pair()
        # Long lists may be given to many calls, each of which goes through them.
        items = arguments if isinstance(arguments, tuple) else ()
        self._budget.take(sum(len(one) for one in items[:4] if isinstance(one, list | tuple)))
        self.stack.append(stand_in(function, arguments))

    def call_with_names(self, _: Any) -> None:
        self.stack.pop()
        self.call(None)

    def call_to_mark(self, argument: Any) -> None:
        items = self.pop_to_mark()
        if argument is not None:  # INST
            module, _, name = argument.partition(" ")
            function: Any = Name(f"{module}.{name}")
        else:
            function = items.pop(0)
        self.stack.append(stand_in(function, tuple(items)))

    def build(self, _: Any) -> None:
        target, state = self.pop_pair()
        if isinstance(target, Inert):
            parts = state if isinstance(state, tuple) else (state,)
            for part in parts[:2]:  # the attributes, and those of slots
                if isinstance(part, dict):
                    self._budget.take(len(part))
                    target.state.update(part)
        self.stack.append(target)

    def storage(self, _: Any) -> None:
        identity = self.stack.pop()
        if not self._storages:
            raise CheckpointError("names storages outside of a file of torch.save")
        found = find_storage(identity)
        if isinstance(found, StoredNumbers):
            self._seen(found)
        self.stack.append(found)

    def duplicate(self, _: Any) -> None:
        self.stack.append(self.stack[-1])


_PUSHES = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    )
)
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_SET": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "TUPLE1": lambda machine, _: machine.make_tuple(1),
    "TUPLE2": lambda machine, _: machine.make_tuple(2),
    "TUPLE3": lambda machine, _: machine.make_tuple(3),
    "TUPLE": _Machine.tuple_to_mark,
    "LIST": _Machine.list_to_mark,
    "FROZENSET": _Machine.list_to_mark,
    "DICT": _Machine.dict_to_mark,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.drop_to_mark,
    "DUP": _Machine.duplicate,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_from_stack,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_names,
    "OBJ": _Machine.call_to_mark,
    "INST": _Machine.call_to_mark,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}


def _checked_constant(value: Any) -> Any:
    """A number or a text. Larger whole numbers could share one hash, which makes dictionaries slow."""
    if isinstance(value, _Skipped):
        return None
    if isinstance(value, int) and abs(value) >= LARGEST_COUNT and value != MAGIC:
        raise CheckpointError("has a number that no setting needs")
    return value


KNOWN_OPERATIONS = frozenset((*_PUSHES, *_OPERATIONS, "STOP", "PROTO", "FRAME"))
