"""Nearest neighbours by cosine: exact in blocks, or of many training videos those of the nearest clusters alone.

An evaluation searches once for all its evaluators (`Searches`): kNN, anomaly detection and retrieval ask for the
neighbours of the same videos. Another distance than cosine: row "Euclidean kNN" of docs/extending.md.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from discovr_jax.evaluation import interface

DEPTH = 100  # neighbours that evaluators share, and more where one asks for more: as many as kNN sweeps
_BLOCK = 8_000_000  # similarities held at once: 64 MB
_COLUMNS = 16_384  # of them, those of one query, at most
_SPARE = 32  # neighbours that the search in float32 keeps beyond those asked for
_CACHED = 500_000  # numbers that are compared in float64 at once: few enough for the processor's cache
_PER_CANDIDATE = 150  # products of rows that are slower in float64 by as much as one candidate takes to be compared
_LISTS = 16  # clusters that a query is compared with, about
_SAMPLE = 128  # training videos per cluster that k-means sees
_CHECKED = 200  # queries that are searched exactly too, for the recall
_IN_MEMORY = 1_000_000  # neighbours of one search above which they lie on disk: 16 MB

Neighbours = tuple[np.ndarray, np.ndarray]


def nearest(query: np.ndarray, reference: np.ndarray, k: int) -> Neighbours:
    """The k most similar rows of the reference set for each query by cosine; ties go to the earlier row.

    Exact at any size. Many rows are searched in float32, which keeps some more than k; those are compared in float64.
    Where what was dropped may, by the largest error of float32, belong to the k, the query is searched in float64.

    Args:
      query: float [Q, D]; reference: float [N, D]; k: at least 1, cut to N.

    Returns:
      (similarity float64 [Q, k], index int64 [Q, k]), most similar first.

    Raises:
      ValueError: a query has fewer than k rows to compare it with, as features are not finite.

    >>> similarity, index = nearest(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]]), k=2)
    >>> index.tolist(), similarity.round(3).tolist()
    ([[1, 2]], [[1.0, 0.707]])
    """
    k = min(k, len(reference))
    if len(query) * len(reference) <= _BLOCK or len(reference) <= _PER_CANDIDATE * (k + _SPARE):
        return _search(query, reference, k, np.float64)
    kept, candidates = _search(query, reference, min(k + _SPARE, len(reference)), np.float32)
    candidates.sort(axis=1)  # of equally similar ones the earlier row comes first
    similarity, index = np.empty((len(query), k)), np.empty((len(query), k), np.int64)
    length = np.concatenate([np.linalg.norm(block, axis=1) for _, block in interface.blocks(reference)])
    length[length == 0] = 1
    rows = max(1, _CACHED // (candidates.shape[1] * reference.shape[1]))
    for start in range(0, len(query), rows):
        part = slice(start, start + rows)
        near = np.asarray(reference[candidates[part]], np.float64)
        exact = np.einsum("qd,qkd->qk", interface.unit_length(np.asarray(query[part], np.float64)), near)
        exact /= length[candidates[part]]
        order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
        similarity[part], index[part] = (np.take_along_axis(each, order, 1) for each in (exact, candidates[part]))
    # Of a sum of D products, by the usual bound, and a little for rounding to float32.
    error = (reference.shape[1] + 64) * np.finfo(np.float32).eps / 2
    unsure = np.flatnonzero(similarity[:, -1] - error <= kept[:, -1])
    if unsure.size and candidates.shape[1] < len(reference):
        similarity[unsure], index[unsure] = _search(query[unsure], reference, k, np.float64)
    return similarity, index


def _search(query: np.ndarray, reference: np.ndarray, keep: int, dtype) -> Neighbours:
    """As `nearest`, by products in `dtype`: (similarity of that type [Q, keep], index int64 [Q, keep])."""
    similarity, index = np.full((len(query), keep), -np.inf, dtype), np.full((len(query), keep), -1)
    query, start = _unit(query, dtype), 0
    while start < len(reference):
        # Each block is as large as all before it, so that few of its rows are among the nearest so far.
        block = _unit(reference[start : start + min(max(start, 256), _COLUMNS)], dtype)
        rows = max(1, _BLOCK // _COLUMNS)
        for first in range(0, len(query), rows):
            part = slice(first, first + rows)
            _merge(similarity[part], index[part], query[part] @ block.T, start)
        start += len(block)
    if (index < 0).any():
        raise ValueError("nearest neighbours of features that are not finite: leave such rows out first")
    return similarity, index


def _unit(features: np.ndarray, dtype) -> np.ndarray:
    """`interface.unit_length` in float64, rounded to `dtype`."""
    result = np.empty(features.shape, dtype)
    for rows, block in interface.blocks(features):
        result[rows] = interface.unit_length(block)
    return result


def _merge(similarity: np.ndarray, index: np.ndarray, block: np.ndarray, start: int) -> None:
    """Enters the similarities `block` [Q, B] to rows `start`, `start` + 1, ... into the greatest so far [Q, keep]."""
    keep = similarity.shape[1]
    row, column = np.divmod(np.flatnonzero(block > similarity[:, -1:]), block.shape[1])
    if not row.size:
        return
    count = np.bincount(row, minlength=len(block))
    place = keep + np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    values = np.full((len(block), keep + count.max()), -np.inf, block.dtype)
    numbers = np.full(values.shape, -1)
    values[:, :keep], numbers[:, :keep] = similarity, index
    values[row, place], numbers[row, place] = block[row, column], start + column
    order = np.argsort(-values, axis=1, kind="stable")[:, :keep]
    similarity[:], index[:] = np.take_along_axis(values, order, 1), np.take_along_axis(numbers, order, 1)


def _exact(train: interface.Split, query: interface.Split, k: int) -> Neighbours:
    return nearest(query.features, train.features, k)


class Clusters:
    """An inverted file: the reference set cut into clusters by k-means on unit-length features.

    The queries nearest to a cluster are compared with the rows of that cluster and of those around it, `search_rows` of
    them or a little more. So a query takes as long in a reference set of a million as in one of `search_rows`, and
    neighbours that lie in none of these clusters are missed.

    Source: Sivic and Zisserman, "Video Google", 2003; Jegou et al., "Product quantization for nearest neighbor search",
    2011, section IV, with exact distances instead of codes.
    """

    def __init__(self, reference: np.ndarray, search_rows: int) -> None:
        """reference: float [N, D], N above search_rows."""
        from sklearn.cluster import MiniBatchKMeans

        self.search_rows, count = search_rows, max(2, round(_LISTS * len(reference) / search_rows))
        some = np.sort(np.random.default_rng(0).permutation(len(reference))[: _SAMPLE * count])
        self._means = MiniBatchKMeans(count, batch_size=4096, n_init=1, init="random", max_iter=20, random_state=0)
        self._means.fit(_unit(reference[some], np.float32))
        of_row = self._nearest_cluster(reference)
        order = np.argsort(of_row, kind="stable")
        self._members = np.split(order, np.cumsum(np.bincount(of_row, minlength=count))[:-1])

    def _rows(self, cluster: int) -> np.ndarray:
        """Rows of a cluster and of those around it, `search_rows` or a little more, in their order."""
        centres = self._means.cluster_centers_
        near = np.argsort(np.square(centres - centres[cluster]).sum(1), kind="stable")
        until = 1 + np.searchsorted(np.cumsum([len(self._members[each]) for each in near]), self.search_rows)
        return np.sort(np.concatenate([self._members[each] for each in near[:until]]))

    def _nearest_cluster(self, features: np.ndarray) -> np.ndarray:
        """int [N] of features [N, D]."""
        parts = (interface.unit_length(block).astype(np.float32) for _, block in interface.blocks(features))
        return np.concatenate([self._means.predict(part) for part in parts])

    def nearest(self, query: np.ndarray, reference: np.ndarray, k: int) -> Neighbours:
        """As `nearest` of the module, in some clusters of the reference set that this was made of."""
        similarity, index = np.empty((len(query), k)), np.empty((len(query), k), np.int64)
        of_query = self._nearest_cluster(query)
        for cluster in np.unique(of_query):
            queries, rows = np.flatnonzero(of_query == cluster), self._rows(cluster)
            similarity[queries], found = nearest(query[queries], reference[rows], k)
            index[queries] = rows[found]
        return similarity, index


@dataclasses.dataclass
class Searches:
    """The neighbours of the validation and test videos among the training videos, searched once for all evaluators.

    Attributes:
      search_rows: training videos above which `Clusters` are searched; 0: never.
      directory: where many neighbours are kept, memory-mapped, until the process ends; None: of temporary files.
      recall: of clusters, the share of the nearest that they find of some validation videos; None: exact.
    """

    search_rows: int
    directory: pathlib.Path | None = None
    recall: float | None = None

    def __post_init__(self) -> None:
        self._found: dict[str, Neighbours] = {}
        self._clusters: Clusters | None = None

    def nearest(self, train: interface.Split, query: interface.Split, k: int) -> Neighbours:
        """As `nearest` of the module; train and query are always the same videos for a name of `query`."""
        approximate = 0 < self.search_rows < len(train.features)
        most = self.search_rows if approximate else len(train.features)
        k = min(k, most)
        if query.name not in self._found or self._found[query.name][0].shape[1] < k:
            search = self._in_clusters if approximate else _exact
            similarity, index = search(train, query, min(max(k, DEPTH), most))
            self._found[query.name] = self._kept(similarity), self._kept(index)
        similarity, index = self._found[query.name]
        return similarity[:, :k], index[:, :k]

    def fresh(self) -> "Searches":
        """For other training videos, none of them searched yet."""
        return Searches(self.search_rows, self.directory)

    def _in_clusters(self, train: interface.Split, query: interface.Split, k: int) -> Neighbours:
        self._clusters = self._clusters or Clusters(train.features, self.search_rows)
        found = self._clusters.nearest(query.features, train.features, k)
        if self.recall is None:
            some = np.unique(np.linspace(0, len(query.features) - 1, _CHECKED).astype(int))
            _, exact = nearest(query.features[some], train.features, k)
            hits = [len(np.intersect1d(a, b)) for a, b in zip(exact, found[1][some], strict=True)]
            self.recall = float(np.mean(hits) / k)
        return found

    def _kept(self, array: np.ndarray) -> np.ndarray:
        if array.size <= _IN_MEMORY:
            return array
        result = interface.spooled(array.shape, array.dtype, self.directory)
        result[:] = array
        return result


def among(train: interface.Split, query: interface.Split, k: int) -> Neighbours:
    """The k training videos most similar to each video of `query`, as `nearest`; shared where `train` has searches."""
    if train.searches is None:
        return _exact(train, query, k)
    return train.searches.nearest(train, query, k)


def details(train: interface.Split) -> dict[str, Any]:
    """For results.json: in how many rows `among` has searched, and the share of the nearest found; empty if exact."""
    searches = train.searches
    if searches is None or searches.recall is None:
        return {}
    return {"search_rows": searches.search_rows, "neighbour_recall": searches.recall}


def notes(evaluator: str, found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """For results.json: which encoders' neighbours are approximate, of {encoder: details of its predictions}."""
    return [
        {
            "evaluator": evaluator,
            "note": f"{encoder}: approximate neighbours, from about {how['search_rows']} training videos near each "
            f"video; they hold {how['neighbour_recall']:.1%} of the true ones",
        }
        for encoder, how in found.items()
        if "neighbour_recall" in how
    ]
