"""Communication between the processes of a training (its ranks); none if there is only one.

Only tensors travel, over the CPU; nothing is pickled. Sums are taken in the order of the ranks, so that every rank has
the same bits. Every rank must make the same calls in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from itertools import pairwise
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from protokern.errors import LostContactError, ProtokernError

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes of a training, seen from one of them.

    Attributes:
        rank: the rank of this process, 0 .. size - 1. The first one writes all files.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and shows what happens."""
        return self.rank == 0

    def part_of(self, items: Sequence[Item]) -> Sequence[Item]:
        """This rank's part of `items`: contiguous, in order, of sizes that differ by one at most."""
        return split_evenly(items, self.size)[self.rank]

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensor of every rank, on the CPU; of one type and number of dimensions, of any sizes."""
        if self.size == 1:
            return [tensor]
        own, shapes, longest = self._announce(tensor)
        received = [torch.zeros(longest, dtype=torch.uint8) for _ in shapes]
        with explain_lost_contact():
            dist.all_gather(received, own)
        return [_unpack(content, shape, tensor.dtype) for content, shape in zip(received, shapes, strict=True)]

    def gather_to_first(self, tensor: Tensor) -> list[Tensor]:
        """As `gather` on the first rank; the others get an empty list and need no memory."""
        if self.size == 1:
            return [tensor]
        own, shapes, longest = self._announce(tensor)
        received = [torch.zeros(longest, dtype=torch.uint8) for _ in shapes] if self.is_first else None
        with explain_lost_contact():
            dist.gather(own, received, dst=0)
        return [_unpack(content, shape, tensor.dtype) for content, shape in zip(received or [], shapes, strict=False)]

    def _announce(self, tensor: Tensor) -> tuple[Tensor, list[list[int]], int]:
        """This rank's tensor as bytes, padded to the longest one; the shapes of all; that length."""
        shape = torch.tensor(tensor.shape, dtype=torch.int64)
        all_shapes = [torch.zeros_like(shape) for _ in range(self.size)]
        with explain_lost_contact():
            dist.all_gather(all_shapes, shape)
        shapes: list[list[int]] = [one.tolist() for one in all_shapes]
        longest = max(math.prod(one) for one in shapes) * tensor.element_size()
        content = torch.zeros(longest, dtype=torch.uint8)
        content[: tensor.nbytes] = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        return content, shapes, longest

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over the ranks, the same bits on each; all ranks give the same number of values."""
        if self.size == 1:
            return list(values)
        own = torch.tensor(values, dtype=torch.float64)
        gathered = [torch.zeros_like(own) for _ in range(self.size)]
        with explain_lost_contact():
            dist.all_gather(gathered, own)
        total = gathered[0].clone()
        for one in gathered[1:]:
            total += one
        sums: list[float] = total.tolist()
        return sums

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks of a tensor that has one shape on all of them, in the order of the ranks."""
        return tensor if self.size == 1 else torch.stack(self.gather(tensor)).to(tensor.device).sum(dim=0)

    def any(self, flag: bool) -> bool:
        """Whether it is true on any rank."""
        return flag if self.size == 1 else self.sum([float(flag)])[0] > 0

    def wait(self) -> None:
        """Until every rank is here."""
        self.sum([0.0])

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank what the first one has; in place."""
        if self.size == 1:
            return
        for tensor in tensors:
            content = tensor.detach().cpu().contiguous()
            with explain_lost_contact():
                dist.broadcast(content, src=0)
            with torch.no_grad():
                tensor.copy_(content)

    def share_random(self) -> None:
        """Give torch's generators everywhere the state of the first rank, so that models draw the same numbers."""
        if self.size == 1:
            return
        state = torch.get_rng_state()
        self.copy_from_first([state])
        torch.set_rng_state(state)
        if dist.get_backend() != "gloo":
            state = torch.cuda.get_rng_state()
            self.copy_from_first([state])
            torch.cuda.set_rng_state(state)

    def parallel(self, module: nn.Module) -> nn.Module:
        """A module whose backward pass averages the gradients of the parts that learn over the ranks."""
        if self.size == 1:
            return module
        # Buffers are the same everywhere without being sent: batch norms share their statistics or are frozen.
        with explain_lost_contact():
            if "forward_sync_buffers" in signature(DistributedDataParallel).parameters:
                return DistributedDataParallel(module, forward_sync_buffers=False)
            return DistributedDataParallel(module, broadcast_buffers=False)  # before PyTorch 2.15


SINGLE = Ranks()


def split_evenly(items: Sequence[Item], parts: int) -> list[Sequence[Item]]:
    """Cut into contiguous parts, in order, of sizes that differ by one at most; some are empty if there are few."""
    bounds = [len(items) * part // parts for part in range(parts + 1)]
    return [items[start:stop] for start, stop in pairwise(bounds)]


def _unpack(content: Tensor, shape: list[int], dtype: torch.dtype) -> Tensor:
    size = math.prod(shape) * dtype.itemsize
    return content[:size].clone().view(dtype).view(shape)


@contextmanager
def explain_lost_contact() -> Iterator[None]:
    """Turn the errors of torch about a lost process into one error.

    Raises:
        LostContactError: another rank has ended, or did not answer in time.
    """
    try:
        yield
    except ProtokernError:
        raise
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "onnection", "NCCL", "imed out")):
            raise LostContactError(text.partition("\n")[0]) from error
        raise
