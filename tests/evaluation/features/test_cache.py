"""Feature extraction and its cache."""

import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax import trees
from discovr_jax.evaluation.features import cache as feature_cache


def _batches(num_videos=5, clips=3, size=4, seed=0):
    """Full batches as of pipeline.eval_batches; the first pixel carries a number for each clip."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 250, (num_videos, clips))
    rows = [(video, values[video, clip], 1.0) for video in range(num_videos) for clip in range(clips)]
    rows += [(rows[-1][0], 255, 0.0)] * (-len(rows) % size)
    batches = []
    for start in range(0, len(rows), size):
        record, value, weight = (np.array(column) for column in zip(*rows[start : start + size], strict=True))
        frames = np.zeros((size, 2, 3, 3), np.uint8)
        frames[:, 0, 0, 0] = value
        batches.append(
            {
                "frames": frames,
                "num_valid": np.full(size, 2, np.int32),
                "record": record.astype(np.int32),
                "weight": weight.astype(np.float32),
            }
        )
    return batches, values


def _embed(frames, num_valid):
    value = frames[:, 0, 0, 0].astype(np.float32)
    value = np.where(value == 255, np.nan, value)  # padding clips give NaN
    return {"cls": jnp.stack([value, 2 * value], axis=1), "mean": value[:, None] + num_valid[:, None]}


def test_mean_over_clips_and_padding_never_counts():
    batches, values = _batches()
    assert any((batch["weight"] == 0).any() for batch in batches)
    first, second = feature_cache.extract_features([_embed, lambda f, n: {"x": np.ones((len(f), 1))}], batches, 5)
    expected = values.mean(1)
    np.testing.assert_allclose(first["cls"], np.stack([expected, 2 * expected], 1), rtol=1e-6)
    np.testing.assert_allclose(first["mean"][:, 0], expected + 2, rtol=1e-6)
    assert first["cls"].dtype == np.float32 and second["x"].shape == (5, 1)


def test_a_video_without_clips_is_an_error():
    batches, _ = _batches()
    with pytest.raises(ValueError, match="1 of 6 videos had no clip"):
        feature_cache.extract_features([_embed], batches, 6)


def test_batches_out_of_order_give_the_same_features():
    batches, _ = _batches()
    order = np.random.default_rng(1).permutation(4)
    mixed = [{name: column[order] for name, column in batch.items()} for batch in reversed(batches)]
    (expected,), (found,) = (feature_cache.extract_features([_embed], each, 5) for each in (batches, mixed))
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("size,what", [(6, "no clip"), (7, "fewer clips than others")])
def test_a_last_batch_that_was_dropped_is_noticed(size, what):
    """Of 15 clips of 5 videos the last batch has 3, or 1: the last video is lost, or one of its clips."""
    batches, _ = _batches(size=size)
    with pytest.raises(ValueError, match=rf"1 of 5 videos had {what} \(first rows: \[4\]\)"):
        feature_cache.extract_features([_embed], batches[:-1], 5)


def test_fingerprint_sees_values_names_and_dtypes():
    tree = {"a": jnp.arange(3.0), "b": jnp.zeros(2)}
    base = trees.fingerprint(tree)
    assert trees.fingerprint({"b": np.zeros(2, np.float32), "a": np.arange(3, dtype=np.float32)}) == base
    for other in (
        {"a": jnp.arange(3.0).at[1].set(1.5), "b": jnp.zeros(2)},
        {"a": jnp.arange(3.0), "c": jnp.zeros(2)},
        {"a": jnp.arange(3), "b": jnp.zeros(2)},
    ):
        assert trees.fingerprint(other) != base


def test_cache_key_sees_weights_preprocessing_and_manifest():
    videos = [("a", 3), ("b", 4)]
    base = feature_cache.cache_key("w", {"stride": 3}, videos)
    assert base == feature_cache.cache_key("w", {"stride": 3}, iter(videos))
    others = [
        feature_cache.cache_key("v", {"stride": 3}, videos),
        feature_cache.cache_key("w", {"stride": 2}, videos),
        feature_cache.cache_key("w", {"stride": 3}, videos[::-1]),
        feature_cache.cache_key("w", {"stride": 3}, [("a", 3), ("b", 5)]),
    ]
    assert len({base, *others}) == 5


class _Maker:
    def __init__(self):
        self.calls = []

    def __call__(self, indices):
        self.calls.append(list(indices))
        return [{"cls": np.full((2, 3), index, np.float32)} for index in indices]


def test_cache_hits_misses_and_replaces(tmp_path):
    make = _Maker()
    names, keys = ["discovr-0-test", "random-0-test"], ["a" * 64, "b" * 64]
    first = feature_cache.cached(tmp_path, names, keys, make)
    again = feature_cache.cached(tmp_path, names, keys, make)
    assert make.calls == [[0, 1]]
    np.testing.assert_array_equal(first[1]["cls"], again[1]["cls"])
    feature_cache.cached(tmp_path, names, ["c" * 64, "b" * 64], make)  # a later checkpoint
    assert make.calls == [[0, 1], [0]]
    assert sorted(path.name[:15] for path in tmp_path.iterdir()) == ["discovr-0-test-", "random-0-test-b"]
    assert not list(tmp_path.glob("*" + "a" * 20 + "*"))


def test_what_another_process_lacks_is_made_again_by_all(tmp_path):
    """Making takes all of them: a process that has its file joins in."""
    make, names, keys = _Maker(), ["discovr-0-test", "random-0-test"], ["a" * 64, "b" * 64]
    feature_cache.cached(tmp_path, names, keys, make)
    share = feature_cache.Share(on_any=lambda flags: [*flags[:1], True])
    feature_cache.cached(tmp_path, names, keys, make, share)
    assert make.calls == [[0, 1], [1]]


def test_damaged_cache_is_made_again(tmp_path, caplog):
    make = _Maker()
    feature_cache.cached(tmp_path, ["x"], ["a" * 64], make)
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:50])
    found = feature_cache.cached(tmp_path, ["x"], ["a" * 64], make)
    assert make.calls == [[0], [0]] and found[0]["cls"].shape == (2, 3)
    assert "made again" in caplog.text
    assert len(feature_cache.cached(tmp_path, ["x"], ["a" * 64], make)) == 1 and len(make.calls) == 2


def test_many_features_are_float16_and_stay_on_disk(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(feature_cache, "_LARGE", 100)
    large = {"b": np.full((40, 3), 0.1, np.float32), "a": np.full((40, 1), 1e5, np.float32)}
    small, calls = {"b": np.full((2, 3), 0.1, np.float32)}, []

    def make(indices):
        calls.append(list(indices))
        return [[large, small][index] for index in indices]

    def cached(keys=("a" * 64, "b" * 64), share=feature_cache.ALONE):
        return feature_cache.cached(tmp_path, ["train", "test"], keys, make, share, mapped=True)

    made, again = cached(), cached()
    assert calls == [[0, 1]]
    for found in (made, again):
        assert isinstance(found[0]["b"], np.memmap) and found[0]["b"].dtype == np.float16
        np.testing.assert_array_equal(found[0]["b"], np.float16(0.1))
        np.testing.assert_array_equal(found[0]["a"], np.float32(1e5))  # beyond float16
        np.testing.assert_array_equal(found[1]["b"], np.float32(0.1))
        assert list(found[0]) == ["a", "b"]
    # A process that writes nothing makes the same numbers; another checkpoint's features are replaced.
    other = cached(("c" * 64, "b" * 64), feature_cache.Share(writes=False))
    np.testing.assert_array_equal(other[0]["b"], made[0]["b"])
    cached(("c" * 64, "b" * 64))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"test-{'b' * 20}.npz", f"train-{'c' * 20}"]
    path = tmp_path / f"train-{'c' * 20}" / "b.npy"
    path.write_bytes(path.read_bytes()[:150])
    np.testing.assert_array_equal(cached(("c" * 64, "b" * 64))[0]["b"], made[0]["b"])
    assert "made again" in caplog.text and calls[-1] == [0]


def test_sums_of_clips_and_the_pooling_all_lie_on_disk_where_they_are_large(tmp_path, monkeypatch):
    batches, _ = _batches()

    def make(directory=None):
        (features,) = feature_cache.extract_features([_embed], batches, 5, directory=directory)
        return {**features, "all": feature_cache.add_all({"train": features}, directory)["train"]["all"]}

    expected = make()
    monkeypatch.setattr(feature_cache, "_LARGE", 4)
    monkeypatch.setattr(feature_cache.interface, "_ROWS", 2)
    found = make(tmp_path)
    for name, array in found.items():
        assert isinstance(array, np.memmap) and array.dtype == np.float32
        np.testing.assert_allclose(array, expected[name], rtol=1e-6, err_msg=name)
    assert not isinstance(expected["all"], np.memmap) and not list(tmp_path.iterdir())


def test_all_balances_readouts_by_their_training_length():
    names = ("train", "val", "test")
    splits = {name: {"a": np.full((2, 4), 50.0), "b": np.full((2, 4), 0.5)} for name in names}
    splits["test"]["b"] = np.full((2, 4), 1.0)  # twice as long as on train: that must stay visible
    found = feature_cache.add_all(splits)
    np.testing.assert_allclose(found["train"]["all"], 0.5)
    np.testing.assert_allclose(found["test"]["all"], [[0.5] * 4 + [1.0] * 4] * 2)
    single = feature_cache.add_all({name: {"pixels": np.ones((2, 4))} for name in splits})
    assert set(single["test"]) == {"pixels"}
