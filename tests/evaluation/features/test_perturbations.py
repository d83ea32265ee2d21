"""What spoils a clip, against numbers computed by hand."""

import numpy as np
import pytest

from discovr_jax.evaluation.features import perturbations


def clip_of(*rows, frames=1):
    return np.tile(np.array(rows, np.uint8), (frames, 1, 1))


def test_depth_attenuation_takes_grey_values_with_depth():
    """20 dB of 60 are a third of 255 = 85 at the lower edge, half of it in the middle (42.5), which rounds to even."""
    clip = clip_of([100, 7, 0], [100, 7, 0], [100, 7, 0])
    found = perturbations.depth_attenuation(clip, 20.0)
    assert found.dtype == np.uint8 and found[0].tolist() == [[100, 7, 0], [58, 0, 0], [15, 0, 0]]


def test_gain_adds_grey_values_but_not_to_black():
    """4 dB are 17 grey values."""
    assert perturbations.gain(clip_of([0, 1, 237], [238, 239, 255], [0, 50, 100]), 4.0)[0].tolist() == [
        [0, 18, 254], [255, 255, 255], [0, 67, 117]
    ]  # fmt: skip


def test_speckle_adds_noise_of_the_stated_strength_but_not_to_black():
    noise = np.array([[[1.0, -1.0], [2.0, 0.5]]], np.float32)
    assert perturbations.speckle(clip_of([100, 10], [0, 250]), 4.0, noise)[0].tolist() == [[117, 0], [0, 255]]
    spread = perturbations.perturb(np.full((1, 4, 64, 64), 128, np.uint8), "speckle", 6.0).astype(float)
    assert spread.mean() == pytest.approx(128, abs=1) and spread.std() == pytest.approx(25.5, rel=0.02)


def test_fully_developed_speckle_has_the_stated_spread():
    amplitude = np.random.default_rng(0).rayleigh(size=200_000)
    assert np.std(20 * np.log10(amplitude)) == pytest.approx(5.57, abs=0.03)


def test_a_shadow_is_black_in_its_wedge_and_nowhere_else():
    """The middle column of 9 is 4; at row 8 the edge of a wedge of 30 degrees is 8 tan(15) = 2.1 columns off."""
    clip = np.full((2, 9, 9), 200, np.uint8)
    found = perturbations.acoustic_shadow(clip, 30.0, 0.0)
    assert (found[0] == found[1]).all() and found[0, 8].tolist() == [200, 200, 0, 0, 0, 0, 0, 200, 200]
    assert found[0, 3].tolist() == [200, 200, 200, 200, 0, 200, 200, 200, 200]  # 3 tan(15) = 0.8
    assert (found[0, :3] == 200).all()  # above a quarter of the depth: row 2.25
    assert perturbations.acoustic_shadow(clip, 10.0, 45.0)[0, 4].tolist() == [200] * 8 + [0]  # to the right


def test_frame_rate_shows_every_kth_frame_k_times():
    clip = np.arange(7, dtype=np.uint8)[:, None, None] * np.ones((7, 2, 2), np.uint8)
    assert perturbations.frame_rate(clip, 3)[:, 0, 0].tolist() == [0, 0, 0, 3, 3, 3, 6]


def test_crop_enlarges_the_middle():
    """Half of 4 pixels: the middle 2 x 2, each enlarged (bilinear) to 2 x 2; corners keep the corners' values."""
    clip = np.zeros((1, 4, 4), np.uint8)
    clip[0, 1:3, 1:3] = [[8, 24], [40, 56]]
    found = perturbations.crop(clip, 0.5)[0]
    assert found.shape == (4, 4) and found[[0, 0, 3, 3], [0, 3, 0, 3]].tolist() == [8, 24, 40, 56]
    assert found[0].tolist() == [8, 12, 20, 24]  # a quarter and three quarters of the way
    np.testing.assert_array_equal(perturbations.crop(clip, 1.0), clip)


def test_what_is_random_depends_on_the_clip_alone():
    rng = np.random.default_rng(0)
    frames = rng.integers(1, 255, (3, 4, 16, 16)).astype(np.uint8)
    for name in ("speckle", "acoustic_shadow"):
        strength = perturbations.KNOWN[name].strengths[2]
        whole = perturbations.perturb(frames, name, strength)
        for row in (2, 0):
            np.testing.assert_array_equal(perturbations.perturb(frames[row : row + 1], name, strength)[0], whole[row])
    shadows = perturbations.perturb(frames, "acoustic_shadow", 40.0) == 0
    assert not np.array_equal(shadows[0], shadows[1])  # in another direction for another clip


@pytest.mark.parametrize("name", perturbations.KNOWN)
def test_each_strength_changes_more_than_the_one_before(name):
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 200, (2, 8, 20, 20)).astype(np.uint8)
    frames[:, :, :, :3] = 0
    about = perturbations.KNOWN[name]
    changes = [np.abs(perturbations.perturb(frames, name, s).astype(float) - frames).mean() for s in about.strengths]
    assert 0 < changes[0] < changes[1] < changes[2]
    assert len({about.label.format(strength) for strength in about.strengths}) == 3
    assert perturbations.perturb(frames, name, about.strengths[0]).shape == frames.shape
