"""The border between host and devices: numpy batches become sharded jax arrays, a few ahead of the step."""

import queue
import threading
import weakref
from collections.abc import Iterator

import jax


class DeviceBatches:
    """Iterator over device batches that one background thread keeps filled; see `device_batches`."""

    def __init__(self, iterator: Iterator[dict], sharding: jax.sharding.Sharding, depth: int):
        self._ready = queue.SimpleQueue()  # ("batch", arrays), ("error", exception) or ("end", None)
        self._free = threading.Semaphore(depth)
        stop = threading.Event()
        arguments = (iterator, sharding, self._ready, self._free, stop)
        # The thread must not refer to self, or an abandoned iterator would never be collected and closed.
        thread = threading.Thread(target=_fill, args=arguments, name="device-batches", daemon=True)
        self._finalizer = weakref.finalize(self, _stop, thread, self._free, stop)
        self._end: BaseException | None = None
        thread.start()

    def __iter__(self) -> "DeviceBatches":
        return self

    def __next__(self) -> dict[str, jax.Array]:
        if self._end is None and not self._finalizer.alive:
            self._end = ValueError("These device batches are closed.")
        if self._end is not None:
            raise self._end
        kind, value = self._ready.get()
        if kind == "batch":
            self._free.release()
            return value
        self._end = StopIteration() if kind == "end" else value
        self.close()
        raise self._end

    def close(self) -> None:
        """Joins the thread, after the batch it is fetching; may be called twice. The source stays open."""
        self._finalizer()

    def __enter__(self) -> "DeviceBatches":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def device_batches(
    iterator: Iterator[dict], sharding: jax.sharding.Sharding, depth: int = 2
) -> DeviceBatches:
    """Puts batches on devices ahead of their use.

    Args:
      iterator: dicts of numpy arrays [b, ...], this process's rows of the global batch. Only the background
        thread may touch it until the result is closed.
      sharding: of the batch axis, for example NamedSharding(mesh, P(("data", "fsdp"))).
      depth: at most so many batches are on the devices, or being put there, ahead of the last returned; >= 1.

    Returns:
      An iterator of dicts of jax arrays [b * processes, ...] with that sharding. What `iterator` raises, this
      raises after the batches before it. Close it, or use it in a `with` statement.

    Raises:
      ValueError: depth < 1.
    """
    if depth < 1:
        raise ValueError(f"depth must be >= 1, got {depth}.")
    return DeviceBatches(iterator, sharding, depth)


def _fill(
    iterator: Iterator[dict],
    sharding: jax.sharding.Sharding,
    ready: queue.SimpleQueue,
    free: threading.Semaphore,
    stop: threading.Event,
) -> None:
    try:
        while True:
            free.acquire()
            if stop.is_set():
                return
            try:
                batch = next(iterator)
            except StopIteration:
                ready.put(("end", None))
                return
            arrays = {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
            ready.put(("batch", arrays))
    except BaseException as error:  # Whatever happens here belongs to the consumer, who waits for an answer.
        ready.put(("error", error))


def _stop(thread: threading.Thread, free: threading.Semaphore, stop: threading.Event) -> None:
    stop.set()
    free.release()
    if thread is not threading.current_thread():  # The garbage collector may run this on any thread.
        thread.join()
