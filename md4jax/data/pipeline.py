"""Batches of global arrays, whose examples are a function of the step alone.

Training batch k holds positions kB, ..., kB + B - 1 of an endless sequence in which the n examples
of the split come once an epoch, each epoch in an order of its own drawn from (seed, epoch). Nothing
needs to be stored to go on from any step, on any number of devices or processes. A background
thread prepares the next batches while the devices work; where unpacking images takes long, grain's
worker processes read them, in the same order.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Integer

from md4jax.data.base import Split
from md4jax.options import UserError

Batch = dict[str, jax.Array]


@functools.lru_cache(maxsize=2)  # A batch may hold the end of an epoch and the start of the next.
def _epoch_order(seed: int, epoch: int, num_examples: int) -> Integer[np.ndarray, "n"]:
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    # The draws do not depend on the array's type, and half the bytes shuffle faster.
    order = np.arange(num_examples, dtype=np.int32 if num_examples < 2**31 else np.int64)
    generator.shuffle(order)
    order.flags.writeable = False
    return order


def batch_indices(
    seed: int, step: int, batch_size: int, num_examples: int
) -> Integer[np.ndarray, "b"]:
    """Which examples global training batch `step` holds.

    Entry j is at position p = step * batch_size + j, which is entry p mod n of epoch p div n. The
    order of an epoch is a Philox permutation keyed by (seed, epoch). A batch may hold parts of
    several epochs.

    Args:
      seed: in [0, 2**64).
      step: from 0.
      batch_size: examples over all devices and processes.
      num_examples: n.
    """
    pieces = []
    position, left = step * batch_size, batch_size
    while left > 0:
        epoch, offset = divmod(position, num_examples)
        piece = _epoch_order(seed, epoch, num_examples)[offset : offset + left]
        pieces.append(piece)
        position, left = position + len(piece), left - len(piece)
    return np.concatenate(pieces)


class _Prefetcher:
    """Calls `make(number)` in a thread, up to `depth` numbers ahead of `next`.

    An exception of `make` comes out of the `next` whose number it belongs to, with its own type,
    and closes the prefetcher.
    """

    def __init__(self, make: Callable[[int], Any], numbers: Iterable[int], depth: int):
        self._make = make
        self._numbers = iter(numbers)
        self._depth = depth
        self._ahead: collections.deque[Future] = collections.deque()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="md4jax-data")
        self._closed = False
        self._fill(depth)

    def _fill(self, count: int) -> None:
        for number in itertools.islice(self._numbers, count - len(self._ahead)):
            self._ahead.append(self._executor.submit(self._make, number))

    def __iter__(self) -> _Prefetcher:
        return self

    def __next__(self) -> Any:
        if self._closed:
            raise ValueError("these batches are closed")
        self._fill(max(1, self._depth))
        if not self._ahead:
            raise StopIteration
        try:
            value = self._ahead.popleft().result()
        except BaseException:
            self.close()
            raise
        self._fill(self._depth)
        return value

    def close(self) -> None:
        self._closed = True
        self._ahead.clear()
        self._executor.shutdown(wait=True, cancel_futures=True)


def _local_rows(sharding: jax.sharding.Sharding, batch_size: int) -> Integer[np.ndarray, "r"]:
    """Rows of a batch that this process's devices hold, ascending.

    Raises:
      UserError: the batch cannot be shared out evenly.
    """
    try:
        sharding.shard_shape((batch_size,))
    except ValueError as error:
        raise UserError(
            f"a batch of {batch_size} examples cannot be shared out evenly over the "
            f"{len(sharding.device_set)} devices of {sharding}"
        ) from error
    needed = np.zeros(batch_size, bool)
    for (rows,) in sharding.addressable_devices_indices_map((batch_size,)).values():
        needed[rows] = True
    return np.flatnonzero(needed)


def _to_devices(
    local: dict[str, np.ndarray],
    rows: Integer[np.ndarray, "r"],
    sharding: jax.sharding.Sharding,
    batch_size: int,
) -> Batch:
    """Global arrays `[batch_size, ...]` from the rows that this process has gathered."""

    def put(array: np.ndarray) -> jax.Array:
        def piece(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(batch_size)
            first = np.searchsorted(rows, start)  # All rows of a device are there, in order.
            return array[first : first + stop - start]

        return jax.make_array_from_callback((batch_size, *array.shape[1:]), sharding, piece)

    return {name: put(array) for name, array in local.items()}


@dataclasses.dataclass(frozen=True)
class _LocalBatch:
    """Reads this process's rows of global training batch `step`; picklable, for other processes."""

    split: Split
    seed: int
    batch_size: int
    rows: Integer[np.ndarray, "r"]

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        indices = batch_indices(self.seed, step, self.batch_size, len(self.split))
        return self.split.gather(indices[self.rows])


class _Workers:
    """Calls `make(number)` in grain's worker processes, ahead of `next`; for numbers in order."""

    def __init__(self, make: Callable[[int], Any], start: int, workers: int, ahead: int):
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():  # In a notebook: grain's workers ask for absl's flags.
            flags.FLAGS.mark_as_parsed()
        numbers = grain.MapDataset.range(start, sys.maxsize).map(make)
        options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=max(1, ahead))
        batches = numbers.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        self._batches = iter(batches.mp_prefetch(options))

    def __call__(self, number: int) -> Any:
        del number  # They come in order.
        return next(self._batches)

    def close(self) -> None:
        self._batches.close()


class TrainBatches:
    """Endless training batches `start_step`, `start_step + 1`, ...

    Each is a dict of global `jax.Array`s: `x0` int32 `[batch_size, *shape]`, and `label` int32
    `[batch_size]` where the data have labels. Each process reads only the rows of its own devices.
    Close it, or use it as a context manager.
    """

    def __init__(
        self,
        split: Split,
        *,
        seed: int,
        batch_size: int,
        sharding: jax.sharding.Sharding,
        start_step: int = 0,
        prefetch: int = 2,
        workers: int = 0,
    ):
        """Starts to prepare the first batches.

        Args:
          split: the examples.
          seed: of the order, in [0, 2**64).
          batch_size: examples over all devices and processes.
          sharding: of the leading axis; it must not split the others.
          start_step: the first batch given.
          prefetch: batches prepared ahead.
          workers: processes that read them; 0 is a thread.

        Raises:
          UserError: the split is empty, or the batch cannot be shared out evenly.
        """
        if not len(split):
            raise UserError("the training split has no examples")
        self._split, self._sharding = split, sharding
        self._seed, self._batch_size = seed, batch_size
        self._rows = _local_rows(sharding, batch_size)
        self._next_step = start_step
        self._read = _LocalBatch(split, seed, batch_size, self._rows)
        self._workers = None
        if workers:
            self._workers = self._read = _Workers(self._read, start_step, workers, prefetch)
        self._batches = _Prefetcher(self._make, itertools.count(start_step), prefetch)

    def _make(self, step: int) -> Batch:
        return _to_devices(self._read(step), self._rows, self._sharding, self._batch_size)

    def __iter__(self) -> TrainBatches:
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
          ValueError: closed. Whatever reading the batch raised closes it and is raised here.
        """
        batch = next(self._batches)
        self._next_step += 1
        return batch

    def state(self) -> dict[str, int]:
        """Where the batches handed out have got to, as plain integers (prefetched ones not)."""
        return {
            "next_step": self._next_step,
            "seed": self._seed,
            "batch_size": self._batch_size,
            "num_examples": len(self._split),
        }

    def close(self) -> None:
        """Ends the thread and the workers."""
        self._batches.close()
        if self._workers is not None:
            self._workers.close()

    def __enter__(self) -> TrainBatches:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()


def eval_batches(
    split: Split,
    batch_size: int,
    sharding: jax.sharding.Sharding,
    num_examples: int | None = None,
) -> Iterator[Batch]:
    """Each example once and in order, in batches of one size.

    Gives dicts of global `jax.Array`s: `x0` int32 `[b, *shape]`, `label` int32 `[b]` where there
    are labels, `mask` float32 `[b]` and `index` int32 `[b]`, the example's place in the split. The
    last batch is filled up with example 0, where mask is 0; it is 1 for all others.

    Args:
      split: the examples.
      batch_size: over all devices and processes; changes no example, mask or index.
      sharding: of the leading axis; it must not split the others.
      num_examples: only the first so many; None, or more than there are, is all.

    Raises:
      UserError: the split is empty, or the batch cannot be shared out evenly.
    """
    count = len(split) if num_examples is None else min(num_examples, len(split))
    if count < 1:
        raise UserError("there are no examples to evaluate")
    rows = _local_rows(sharding, batch_size)

    def make(number: int) -> Batch:
        index = number * batch_size + rows
        mask = index < count
        index = np.where(mask, index, 0)
        local = split.gather(index)
        local |= {"mask": mask.astype(np.float32), "index": index.astype(np.int32)}
        return _to_devices(local, rows, sharding, batch_size)

    return _run(_Prefetcher(make, range(-(-count // batch_size)), depth=1))


def _run(prefetcher: _Prefetcher) -> Iterator[Batch]:
    try:
        yield from prefetcher
    finally:
        prefetcher.close()
