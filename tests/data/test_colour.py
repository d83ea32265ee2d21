"""A tinted grey map is grey, whatever its tint; what is off the map is coloured."""

import numpy as np
import pytest

from discovr_jax.data import colour

TINTS = {"sepia": (1, 0.86, 0.62), "gold": (1, 0.84, 0.45), "blue": (0.62, 0.8, 1), "green": (0.7, 1, 0.75)}


@pytest.fixture(scope="module")
def speckle():
    """uint8 [T, H, W]: every grey level."""
    y = np.linspace(0, 1, 90)[:, None]
    return np.clip(np.random.default_rng(0).normal(30 + 190 * y, 40, (6, 90, 120)), 0, 255).astype(np.uint8)


def coloured(rgb):
    frames, chroma = np.stack([colour.luma(frame) for frame in rgb]), colour.Colours()
    for frame in rgb:
        chroma.add_rgb(frame)
    return chroma.distance(frames)


def ybr(rgb):
    """Full-range YCbCr of uint8 [..., 3], the chroma of every second pixel and row."""
    wide = rgb.astype(float)
    light = wide @ np.array([0.299, 0.587, 0.114])
    planes = [light, (wide[..., 2] - light) / 1.772 + 128, (wide[..., 0] - light) / 1.402 + 128]
    planes[1:] = [p.reshape(p.shape[0], 45, 2, 60, 2).mean((2, 4)) for p in planes[1:]]
    return [np.rint(plane).astype(np.uint8) for plane in planes]


@pytest.mark.parametrize("tint", TINTS.values(), ids=TINTS)
def test_one_hue_with_one_curve_is_grey(speckle, tint):
    linear = np.rint(speckle[..., None] * np.array(tint)).astype(np.uint8)
    curved = np.rint(255 * (speckle[..., None] / 255) ** (1 / np.sqrt(np.array(tint)))).astype(np.uint8)
    assert coloured(linear) is None
    found = coloured(curved)  # its hue turns a little on the way
    assert found is None or np.percentile(found, 99) < 30
    light, cb, cr = ybr(linear)
    chroma = colour.Colours()
    for planes in zip(cb, cr, strict=True):
        chroma.add_chroma(*planes)
    found = chroma.distance(light)  # chroma of four pixels is not that of each
    assert found is None or np.percentile(found, 99) < 60


@pytest.mark.parametrize("tint", [(1, 1, 1), *TINTS.values()], ids=["grey", *TINTS])
def test_doppler_on_a_grey_map_is_coloured(speckle, tint):
    rgb = np.rint(speckle[..., None] * np.array(tint)).astype(np.uint8)
    rgb[:, 20:40, 30:60] = 30, 60, 230
    rgb[:, 40:60, 30:60] = 220, 40, 20
    found = coloured(rgb)
    assert (found[:, 20:60, 30:60] >= 150).all()
    outside = np.ones(found.shape, bool)
    outside[:, 20:60, 30:60] = False
    assert np.percentile(found[outside], 99) < 24


def test_flow_of_one_colour_is_no_map(speckle):
    rgb = np.repeat(speckle[..., None], 3, -1)
    rgb[:, 10:80, 20:100] = 200, 40, 30  # most pixels of its luma
    assert (coloured(rgb)[:, 10:80, 20:100] == 170).all()


def test_white_text_beside_a_tinted_map_stays_off_it(speckle):
    rgb = np.rint(speckle[..., None] * np.array(TINTS["gold"])).astype(np.uint8)
    rgb[:, :6, :60] = 255
    found = coloured(rgb)
    assert (found[:, :6, :60] >= 80).all() and found[:, 8:].max() < 24
