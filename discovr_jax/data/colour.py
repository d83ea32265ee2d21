"""Grey and colourfulness of colour pictures."""

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Below this distance from grey a picture is grey: compression leaves that much in the chroma.
_GREY = 24


def luma(rgb: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] of red, green, blue to uint8 [...]."""
    return np.rint(rgb @ LUMA).astype(np.uint8)


def of_rgb(rgb: np.ndarray) -> np.ndarray | None:
    """Distance from grey of uint8 [..., 3], the largest less the smallest component: uint8 [...]; None if all grey."""
    distance = rgb.max(-1) - rgb.min(-1)
    return distance if distance.size and distance.max() >= _GREY else None


def of_chroma(cb: np.ndarray, cr: np.ndarray) -> np.ndarray | None:
    """The same from the blue and red chroma of full-range YCbCr, uint8 [...] each; it does not depend on the luma."""
    if max(abs(int(edge) - 128) for plane in (cb, cr) for edge in (plane.min(), plane.max())) < _GREY // 4:
        return None
    distance = _DISTANCE[cb, cr]
    return distance if distance.max() >= _GREY else None


def _distances() -> np.ndarray:
    """uint8 [256, 256]: of_chroma for every pair."""
    cb, cr = np.meshgrid(np.arange(256) - 128.0, np.arange(256) - 128.0, indexing="ij")
    red, green, blue = 1.402 * cr, -0.344136 * cb - 0.714136 * cr, 1.772 * cb
    distance = np.maximum.reduce([red, green, blue]) - np.minimum.reduce([red, green, blue])
    return np.clip(np.rint(distance), 0, 255).astype(np.uint8)


_DISTANCE = _distances()
