import collections

import pytest

from tfds_builders.splits import hashed_split

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
