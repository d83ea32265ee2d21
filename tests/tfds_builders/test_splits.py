import collections

import pytest

from tfds_builders.splits import hashed_split, stratified_splits

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


@pytest.mark.parametrize(
    "patient,seed,split",
    [
        # `printf 0:p2 | sha256sum` begins 0e1d: 0x0e1d / 0x10000 = 0.055; and so on.
        ("p2", 0, "train"),  # 0e1d, 0.055
        ("p3", 0, "train"),  # cb57, 0.794
        ("p8", 0, "val"),  # ce6a, 0.806
        ("é", 0, "val"),  # e62c, 0.899
        ("p6", 0, "test"),  # e92f, 0.911
        ("p1", 0, "test"),  # fc79, 0.986
        ("p1", 1, "train"),  # 56f2, 0.340
    ],
)
def test_hand_computed_places(patient, seed, split):
    assert hashed_split(patient, seed, SHARES) == split
    # The order in which the shares are given and their unit do not matter.
    assert hashed_split(patient, seed, {"test": 10, "val": 10, "train": 80}) == split


def test_proportions_and_independence_of_seeds():
    patients = [f"patient {number}" for number in range(20_000)]
    splits = {seed: [hashed_split(patient, seed, SHARES) for patient in patients] for seed in (0, 1)}
    for found in splits.values():
        counts = collections.Counter(found)
        for split, share in SHARES.items():
            # Four standard deviations of a binomial.
            assert abs(counts[split] - 20_000 * share) < 4 * (20_000 * share * (1 - share)) ** 0.5
    same = sum(a == b for a, b in zip(splits[0], splits[1], strict=True)) / 20_000
    assert abs(same - (0.8**2 + 0.1**2 + 0.1**2)) < 0.015


def test_a_split_without_share_gets_nobody():
    found = {hashed_split(str(number), 0, {"train": 1, "val": 0, "test": 1}) for number in range(100)}
    assert found == {"train", "test"}
    assert {hashed_split(str(number), 0, {"val": 3}) for number in range(100)} == {"val"}


@pytest.mark.parametrize(
    "patient,shares",
    [
        ("", SHARES),
        ("p", {}),
        ("p", {"train": 0.0}),
        ("p", {"train": 1.5, "val": -0.5}),
        ("p", {"train": float("nan")}),
        ("p", {"holdout": 1.0}),
    ],
)
def test_what_makes_no_split_is_refused(patient, shares):
    with pytest.raises(ValueError, match="patient_id is empty|shares must be"):
        hashed_split(patient, 0, shares)


def test_every_stratum_has_its_share_of_the_videos():
    """82 clips of 60 patients, as a small archive has them; by hash the splits got 67, 5 and 10."""
    strata = {f"p{n}": [("common", "common", "rare")[n % 3]] * (1 + n % 2) for n in range(55)}
    shares = {"train": 70, "val": 10, "test": 20}
    found = stratified_splits(strata, 0, shares)
    for stratum in ("common", "rare"):
        counts = collections.Counter()
        for patient, split in found.items():
            counts[split] += strata[patient].count(stratum)
        total = sum(counts.values())
        assert all(abs(counts[split] - share / 100 * total) <= 2 for split, share in shares.items()), counts
    assert stratified_splits(dict(reversed(strata.items())), 0, shares) == found  # whatever their order
    assert stratified_splits(strata, 1, shares) != found


def test_few_patients_of_a_stratum_are_spread():
    shares = {"val": 10, "train": 70, "test": 20}
    for count, expected in ((1, ["train"]), (2, ["test", "train"]), (3, ["test", "train", "val"])):
        found = stratified_splits({f"p{n}": ["a"] * (9 if n == 0 else 1) for n in range(count)}, 0, shares)
        assert sorted(found.values()) == expected and found["p0"] == "train"
    # A patient of several classes counts for that of most of its videos, of equally many for the rarer one.
    mixed = {"p": ["a", "b"], "q": ["b", "b"], "r": ["a"], "s": ["b"]}
    assert set(stratified_splits(mixed, 0, {"train": 1, "test": 1}).values()) == {"train", "test"}
    with pytest.raises(ValueError, match="shares must be"):
        stratified_splits(mixed, 0, {"holdout": 1})
