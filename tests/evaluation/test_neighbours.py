"""Nearest neighbours: exact in blocks and in float32, in clusters, and searched once for all evaluators."""

import dataclasses

import numpy as np
import pytest

from discovr_jax.evaluation import interface, neighbours
from discovr_jax.evaluation.evaluators import anomaly, knn, retrieval
from tests import evaluation_case


def test_nearest_in_blocks_equals_a_full_sort(monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", 2000)  # 10 rows a block
    rng = np.random.default_rng(0)
    reference, query = rng.integers(-2, 3, (200, 2)), rng.normal(size=(57, 2))  # full of ties
    similarity, index = neighbours.nearest(query, reference, 3)
    whole = interface.unit_length(query) @ interface.unit_length(reference).T
    np.testing.assert_array_equal(index, np.argsort(-whole, axis=1, kind="stable")[:, :3])
    np.testing.assert_allclose(similarity, np.take_along_axis(whole, index, axis=1), atol=1e-12)


@pytest.mark.parametrize("spread,searched_again", [(1.0, 0), (1e-4, 1)])
def test_nearest_in_float32_is_exact(monkeypatch, spread, searched_again):
    """What float32 cannot tell apart, here cosines of 1 - 1e-8, is searched again in float64."""
    small = {"_BLOCK": 20_000, "_COLUMNS": 300, "_SPARE": 8, "_CACHED": 5000, "_PER_CANDIDATE": 1}
    for name, value in small.items():
        monkeypatch.setattr(neighbours, name, value)
    monkeypatch.setattr(interface, "_ROWS", 100)
    rng, search, queries = np.random.default_rng(0), neighbours._search, []

    def spy(query, reference, keep, dtype):
        queries.append((dtype, len(query)))
        return search(query, reference, keep, dtype)

    monkeypatch.setattr(neighbours, "_search", spy)
    reference = 1 + spread * rng.normal(size=(900, 40))
    reference[::90] = reference[5]  # ties
    query = np.r_[1 + spread * rng.normal(size=(130, 40)), reference[5:6]]
    similarity, index = neighbours.nearest(query, reference, 20)
    whole = interface.unit_length(query) @ interface.unit_length(reference).T
    expected = np.take_along_axis(whole, np.argsort(-whole, axis=1, kind="stable")[:, :20], axis=1)
    np.testing.assert_allclose(similarity, expected, rtol=0, atol=1e-15)
    np.testing.assert_allclose(np.take_along_axis(whole, index, axis=1), expected, rtol=0, atol=1e-15)
    assert index[-1][:11].tolist() == [0, 5, *range(90, 900, 90)]
    assert all(len(set(row)) == 20 for row in index.tolist())
    assert [dtype for dtype, _ in queries] == [np.float32] + searched_again * [np.float64]
    assert queries[-1][1] > 100  # all, or nearly


def _in_groups(rng, groups, per_group, dim=24):
    """Features in tight groups far from each other, shuffled: [groups * per_group, dim]."""
    centres = np.repeat(10 * rng.normal(size=(groups, dim)), per_group, axis=0)
    return rng.permutation(centres + 0.1 * rng.normal(size=centres.shape))


def test_clusters_find_the_neighbours_that_lie_together(monkeypatch):
    """Of many training videos few are compared; the recall is of what an exact search finds."""
    rng, nearest, sizes = np.random.default_rng(0), neighbours.nearest, []

    def spy(query, reference, k):
        sizes.append(len(reference))
        return nearest(query, reference, k)

    monkeypatch.setattr(neighbours, "nearest", spy)
    monkeypatch.setattr(neighbours, "DEPTH", 10)
    monkeypatch.setattr(neighbours, "_IN_MEMORY", 100)
    features = _in_groups(rng, 12, 60)
    searches = neighbours.Searches(200)
    train = interface.Split("train", features[:600], (np.arange(600) % 3 == 0).astype(float), searches=searches)
    val = interface.Split("val", features[600:], (np.arange(120) % 3 == 0).astype(float))
    similarity, index = neighbours.among(train, val, 7)
    expected = nearest(val.features, train.features, 7)
    np.testing.assert_array_equal(index, expected[1])
    np.testing.assert_allclose(similarity, expected[0], rtol=1e-12)
    assert isinstance(similarity.base, np.memmap)  # 120 x 10 of them are many here
    assert neighbours.details(train) == {"search_rows": 200, "neighbour_recall": 1.0}
    assert sizes.pop() == 600 and 200 <= min(sizes) and max(sizes) < 400  # the last is the exact search
    searched = len(sizes)
    assert np.array_equal(neighbours.among(train, val, 10)[1][:, :7], index) and len(sizes) == searched
    noise = interface.Split("train", rng.normal(size=(600, 24)), train.target, searches=neighbours.Searches(50))
    neighbours.among(noise, interface.Split("val", rng.normal(size=(120, 24)), val.target), 10)
    assert 0.1 < neighbours.details(noise)["neighbour_recall"] < 0.9  # neighbours in noise lie in no cluster


def test_evaluators_share_one_search(monkeypatch):
    train, val, test = evaluation_case.make_splits(gap=0.5, share=0.7)
    columns = {"id": np.arange(200).astype(str), "ef": np.arange(200.0)}
    splits = [
        dataclasses.replace(each, columns={name: column[: len(each.target)] for name, column in columns.items()})
        for each in (train, val, test)
    ]
    heads = {knn: {"neighbours": (1, 20)}, anomaly: {"k": 10}, retrieval: {}}
    alone = [head.evaluate(*splits, **options) for head, options in heads.items()]
    search, searched = neighbours._search, []

    def spy(query, reference, keep, dtype):
        searched.append((len(query), len(reference)))
        return search(query, reference, keep, dtype)

    monkeypatch.setattr(neighbours, "_search", spy)
    monkeypatch.setattr(neighbours, "DEPTH", 25)
    splits[0] = dataclasses.replace(splits[0], searches=neighbours.Searches(0))
    shared = [head.evaluate(*splits, **options) for head, options in heads.items()]
    for one, other in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(one.val, other.val)
        assert one.details == other.details
        for name in one.outputs:
            np.testing.assert_array_equal(one.outputs[name], other.outputs[name])
    # Anomaly, for which 40 of them are looked at, has to search deeper; all 36 normal ones are searched for the rest.
    assert searched[:2] == [(60, 120), (200, 120)] and [n for _, n in searched[2:]].count(36) <= 2
    np.testing.assert_allclose(
        shared[1].test, anomaly.distance(train.features[train.target == 0], test.features, 10), rtol=1e-12
    )


def test_neighbours_of_features_that_are_not_finite_are_an_error():
    with pytest.raises(ValueError, match="not finite"):
        neighbours.nearest(np.full((2, 3), np.nan), np.eye(3), 2)
