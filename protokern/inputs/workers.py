"""Errors of the processes that read images, passed to the process that trains as one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from protokern.errors import ProtokernError, TrainingError
from protokern.models.base import Given


@dataclass(frozen=True, slots=True)
class WorkerError:
    """An error instead of a batch, because a loader would pass on only the text of its traceback."""

    error: Exception


class ErrorsAsValues:
    """A data set that returns errors as values."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitems__(self, indices: list[int]) -> Any:
        try:
            if hasattr(self._dataset, "__getitems__"):
                return self._dataset.__getitems__(indices)
            return [self._dataset[index] for index in indices]
        except (ProtokernError, OSError) as error:
            return WorkerError(error)


@dataclass(frozen=True, slots=True)
class CollateUnlessError:
    collate: Callable[[Any], Any]

    def __call__(self, items: Any) -> Any:
        return items if isinstance(items, WorkerError) else self.collate(items)


class ImageLoader(DataLoader[tuple[Tensor, Tensor]]):
    """A loader that raises the errors of its worker processes unchanged, and says what it gives to a model.

    Arguments as in `DataLoader`, and `given`: what the batches hold, for `PrototypeModel.features`.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        batch_sampler: Any,
        num_workers: int,
        collate_fn: Callable[[Any], Any],
        worker_init_fn: Callable[[int], None],
        generator: Any = None,
        given: Given = "images",
    ) -> None:
        super().__init__(
            ErrorsAsValues(dataset) if num_workers else dataset,  # type: ignore[arg-type]
            batch_sampler=batch_sampler,
            num_workers=num_workers,
            collate_fn=CollateUnlessError(collate_fn) if num_workers else collate_fn,
            worker_init_fn=worker_init_fn,
            generator=generator,
        )
        self.given = given

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, WorkerError):
                raise batch.error
            yield batch


@contextmanager
def explain_lost_workers() -> Iterator[None]:
    """Turn the death of a worker process, which torch may notice at any moment, into a TrainingError."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = str(error).partition("\n")[0].rstrip(". ")
        raise TrainingError(
            f"data.workers: a process that reads images has died ({reason}). The machine may lack memory: lower "
            "data.workers, and go on with --resume."
        ) from error
