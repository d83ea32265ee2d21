"""Grey and colourfulness of colour pictures.

Echo video is grey, often stored as colour, and sometimes shown in the tint of a grey map (sepia, blue, gold). A pixel
is coloured (Doppler, text, traces) as far as it is away from grey, or from that tint.
"""

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Below this distance from grey a picture is grey: compression leaves that much in the chroma.
_GREY = 24
# A grey map has one hue, whose strength is one curve over the luma. It is looked for in bins of so many lumas, from a
# least one on (darker pixels have no chroma); so many pixels per frame, of so many frames, are looked at.
_DARK, _BIN, _PIXELS, _FRAMES = 32, 16, 4096, 64
# Levels of chroma: how far pixels may be from their bin's median and from the map, a bin from the hue (at least, and
# as a share of its strength), how much bins in a row may differ, and from where on a map is a tint at all.
_NEAR, _ONE_HUE, _ONE_HUE_SHARE, _STEEPEST, _LEAST_TINT = 12.0, 4.0, 0.15, 16.0, 6.0
# Share of a bin's pixels that must be near its median, and of all pixels that must be on the map.
_MAJORITY, _ON_MAP = 0.6, 0.7


class Colours:
    """Collects the chroma of a clip's frames, until all are known and a tint can be told from colour."""

    def __init__(self):
        self._frames: list[tuple[np.ndarray, np.ndarray, np.ndarray | None] | None] = []

    def add_grey(self) -> None:
        """A frame without chroma."""
        self._frames.append(None)

    def add_chroma(self, cb: np.ndarray, cr: np.ndarray) -> None:
        """A frame's blue and red chroma of full-range YCbCr, uint8 [h, w] each, perhaps subsampled."""
        edges = (abs(int(edge) - 128) for plane in (cb, cr) for edge in (plane.min(), plane.max()))
        self._frames.append((cb, cr, None) if cb.size and max(edges) >= _GREY // 4 else None)

    def add_rgb(self, rgb: np.ndarray) -> None:
        """A frame of red, green, blue, uint8 [H, W, 3]."""
        distance = rgb.max(-1) - rgb.min(-1)
        if not distance.size or distance.max() < _GREY:
            self.add_grey()
            return
        wide = rgb.astype(np.float32)
        light = wide @ LUMA
        cb, cr = ((wide[..., i] - light) * scale + 128 for i, scale in ((2, 0.5 / 0.886), (0, 0.5 / 0.701)))
        self._frames.append((*(np.clip(np.rint(plane), 0, 255).astype(np.uint8) for plane in (cb, cr)), distance))

    def distance(self, frames: np.ndarray) -> np.ndarray | None:
        """How far each pixel is from grey, or from the tint of the clip's grey map.

        Args:
          frames: uint8 [T, H, W], the luma of the frames that were added.

        Returns:
          uint8 [T, H, W], the largest less the smallest of red, green, blue; None if no pixel is coloured.
        """
        if not any(self._frames):
            return None
        tint, result = self._tint(frames), np.zeros_like(frames)
        for luma_, chroma, target in zip(frames, self._frames, result, strict=True):
            if chroma is None:
                continue
            cb, cr, distance = chroma
            if tint is not None:
                light = _shrunk(luma_, cb.shape)
                cb, cr = (np.clip(plane - tint[i][light], 0, 255).astype(np.uint8) for i, plane in enumerate((cb, cr)))
            if tint is not None or distance is None:
                distance = _DISTANCE[cb, cr]
            down, across = (-(-whole // part) for whole, part in zip(target.shape, distance.shape, strict=True))
            target[...] = distance.repeat(down, 0).repeat(across, 1)[: target.shape[0], : target.shape[1]]
        return result if result.size and result.max() >= _GREY else None

    def _tint(self, frames: np.ndarray) -> np.ndarray | None:
        """Chroma of the clip's grey map, int16 [2, 256] by luma; None if it has no tint."""
        light, chroma = [], []
        for number in np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _FRAMES)).round().astype(int)):
            grey = np.full_like(frames[number], 128), np.full_like(frames[number], 128), None
            cb, cr, _ = self._frames[number] or grey
            step = max(1, cb.size // _PIXELS)
            light.append(_shrunk(frames[number], cb.shape).ravel()[::step])
            chroma.append(np.stack([cb.ravel()[::step], cr.ravel()[::step]], 1).astype(np.float32) - 128)
        return _fit_tint(np.concatenate(light), np.concatenate(chroma))


def luma(rgb: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] of red, green, blue to uint8 [...]."""
    return np.rint(rgb @ LUMA).astype(np.uint8)


def _fit_tint(light: np.ndarray, chroma: np.ndarray) -> np.ndarray | None:
    """The chroma int16 [2, 256] of a grey map that most pixels follow; None if there is none.

    Args:
      light: uint8 [N], luma of pixels.
      chroma: float32 [N, 2], theirs, 0 for grey.
    """
    bright = light >= _DARK
    bins, chroma = light[bright] // _BIN, chroma[bright]
    numbers, counts = np.unique(bins, return_counts=True)
    medians = np.array([np.median(chroma[bins == number], axis=0) for number in numbers]).reshape(-1, 2)
    total = counts @ medians
    if not total.any():
        return None
    hue = total / np.linalg.norm(total)
    curve = [(0.0, 0.0)]
    for number, median in zip(numbers, medians, strict=True):
        centre, strength = (number + 0.5) * _BIN, float(median @ hue)
        aside = np.linalg.norm(median - strength * hue)
        step = abs(strength - curve[-1][1]) * _BIN / min(centre - curve[-1][0], _DARK + _BIN / 2)
        # White text lies off the curve, Doppler off the hue.
        if aside > max(_ONE_HUE, _ONE_HUE_SHARE * strength) or step > _STEEPEST or strength < -_ONE_HUE:
            continue
        if np.mean(np.abs(chroma[bins == number] - median).max(1) <= _NEAR) >= _MAJORITY:
            curve.append((centre, strength))
    if max(strength for _, strength in curve) < _LEAST_TINT:
        return None
    tint = np.rint(hue[:, None] * np.interp(np.arange(256), *zip(*curve, strict=True))).astype(np.int16)
    near = (np.abs(chroma - tint[:, light[bright]].T) <= _NEAR).all(1)
    return tint if near.mean() >= _ON_MAP else None


def _shrunk(luma_: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W] averaged over the areas that pixels of subsampled chroma [h, w] cover."""
    if luma_.shape == shape:
        return luma_
    down, across = (-(-whole // part) for whole, part in zip(luma_.shape, shape, strict=True))
    padding = [(0, part * step - whole) for whole, part, step in zip(luma_.shape, shape, (down, across), strict=True)]
    areas = np.pad(luma_, padding, mode="edge").reshape(shape[0], down, shape[1], across)
    return np.rint(areas.mean((1, 3))).astype(np.uint8)


def _distances() -> np.ndarray:
    """uint8 [256, 256]: the largest less the smallest of red, green, blue, for every pair of chroma."""
    cb, cr = np.meshgrid(np.arange(256) - 128.0, np.arange(256) - 128.0, indexing="ij")
    red, green, blue = 1.402 * cr, -0.344136 * cb - 0.714136 * cr, 1.772 * cb
    distance = np.maximum.reduce([red, green, blue]) - np.minimum.reduce([red, green, blue])
    return np.clip(np.rint(distance), 0, 255).astype(np.uint8)


_DISTANCE = _distances()
