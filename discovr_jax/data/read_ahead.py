"""Clips to batches with many clips in flight: reads that wait for a disk or a store far away wait together.

Each of grain's threads makes one clip at a time. A worker process makes whole batches, and its threads the clips of
its batches in order, so that batches are the same for any number of workers and threads.
"""

import sys

import grain


class ClipsOfWorkers(grain.MapDataset):
    """The clips of one process, ordered so that a worker that takes every `workers`-th makes every `workers`-th batch.

    Args:
      clips: of all processes, in the order of the global batches.
      rows: clips of a batch of this process.
      first: number of its first batch of `rows` clips among those of all processes; every: from one to the next.
      workers: processes to read with, at most (`workers` is at most the number of batches); 0 for threads of this one.
    """

    def __init__(self, clips: grain.MapDataset, rows: int, first: int, every: int, workers: int):
        super().__init__(clips)
        self.rows, self._first, self._every = rows, first, every
        self._batches = len(range(first, len(clips) // rows, every))
        self.workers = min(workers, self._batches)
        self._streams = max(1, self.workers)

    def __len__(self) -> int:
        # All streams are equally long, so some end in a batch of nothing; one without end stays what `len` can say.
        round_of_batches = self._streams * self.rows
        return min(-(-self._batches // self._streams), sys.maxsize // round_of_batches) * round_of_batches

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        place, worker = divmod(index, self._streams)
        turn, row = divmod(place, self.rows)
        batch = turn * self._streams + worker
        if batch >= self._batches:
            return None  # grain leaves it out
        return self._parent[(self._first + batch * self._every) * self.rows + row]

    def batches(self, in_flight: int) -> grain.IterDataset:
        """Batches of `rows` clips; at most `in_flight` clips are being read, or are ready and wait for the others."""
        options = grain.ReadOptions(num_threads=in_flight, prefetch_buffer_size=in_flight)
        return self.to_iter_dataset(options).batch(self.rows, drop_remainder=True)
