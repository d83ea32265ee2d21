"""A scanner's screen: the sector picture enlarged, with text, ECG and colour bar burnt in around it."""

import dataclasses

import cv2
import numpy as np

from tfds_builders.echo_phantom import scanner
from tfds_builders.echo_phantom.parameters import HeartParameters


@dataclasses.dataclass(frozen=True)
class Screen:
    """Where the picture lies.

    Attributes:
      height, width: pixels of the screen.
      scale: its pixels for one of the picture.
      top, left: of the picture.
      mirrored: left and right of the picture are exchanged.
    """

    height: int
    width: int
    scale: float
    top: int
    left: int
    mirrored: bool = False

    def show(self, frames: np.ndarray) -> np.ndarray:
        """Frames uint8 [T, h, w] enlarged and put in place, uint8 [T, height, width]; black around."""
        shown = np.zeros((len(frames), self.height, self.width), np.uint8)
        for frame, target in zip(frames, shown, strict=True):
            self._put(target, enlarge(frame, self._size(frame)))
        return shown

    def show_labels(self, masks: np.ndarray) -> np.ndarray:
        """Masks uint8 [N, h, w] put in place with smooth borders, uint8 [N, height, width]."""
        shown = np.zeros((len(masks), self.height, self.width), np.uint8)
        for mask, target in zip(masks, shown, strict=True):
            self._put(target, enlarge_labels(mask, self._size(mask)))
        return shown

    def sector(self, params: HeartParameters) -> np.ndarray:
        """Pixels of the screen that lie in the sector, bool [height, width]."""
        inside = ~scanner.outside(params)
        shown = np.zeros((self.height, self.width), np.uint8)
        self._put(shown, enlarge_labels(inside.astype(np.uint8), self._size(inside)))
        return shown > 0

    def points(self, points: np.ndarray, size: int = scanner.SIZE) -> np.ndarray:
        """Points [..., 2] (x, y) of the picture, `size` pixels wide, in pixels of the screen."""
        x = size - 1 - points[..., 0] if self.mirrored else points[..., 0]
        placed = np.stack([x, points[..., 1]], axis=-1)
        return (placed + 0.5) * self.scale - 0.5 + np.array([self.left, self.top])

    def _size(self, picture: np.ndarray) -> tuple[int, int]:
        height, width = picture.shape[:2]
        return round(width * self.scale), round(height * self.scale)

    def _put(self, target: np.ndarray, picture: np.ndarray) -> None:
        picture = picture[:, ::-1] if self.mirrored else picture
        target[self.top : self.top + picture.shape[0], self.left : self.left + picture.shape[1]] = picture


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of what is true in a mask [H, W], the last two exclusive."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def enlarge(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture uint8 [h, w] resized to (width, height)."""
    return cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)


def enlarge_labels(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask uint8 [h, w] resized to (width, height), each pixel with the label that weighs most there."""
    labels = np.unique(mask)
    weights = [cv2.resize((mask == label).astype(np.float32), size) for label in labels]
    return labels[np.argmax(weights, axis=0)].astype(np.uint8)


def annotate(shown: np.ndarray, lines: list[str], beats: list[float], seconds: float) -> np.ndarray:
    """What a scanner writes around its sector: text, a colour bar, depth marks, an ECG with a moving mark.

    Args:
      shown: uint8 [T, H, W], black outside the sector; at least 240 x 320, the lowest 28 rows free.
      lines: of text, for the upper left corner.
      beats: seconds of the R waves.
      seconds: how long the clip lasts.

    Returns:
      uint8 [T, H, W, 3], RGB.
    """
    count, height, width = shown.shape
    around = np.zeros((height, width, 3), np.uint8)
    for number, text in enumerate(lines):
        place = (4, 12 + 11 * number)
        cv2.putText(around, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.3, (200, 200, 200), 1, cv2.LINE_AA)
    ramp = np.linspace(255, 0, 90).astype(np.uint8)[:, None].repeat(9, axis=1)
    around[16 : 16 + 90, width - 16 : width - 7] = cv2.applyColorMap(ramp, cv2.COLORMAP_JET)[..., ::-1]
    around[10 : height - 40 : 18, width - 26 : width - 23] = 150
    time = np.linspace(0, seconds, width)
    trace = _ecg(time, beats)
    points = np.stack([np.arange(width), height - 10 - 14 * trace], axis=1)
    cv2.polylines(around, [np.rint(points).astype(np.int32)], False, (0, 200, 60), 1, cv2.LINE_AA)
    frames = np.maximum(shown[..., None], around)
    for index, frame in enumerate(frames):
        x = round(index / count * (width - 1))
        frame[height - 26 : height - 2, x] = (230, 210, 40)
    return frames


def _ecg(time: np.ndarray, beats: list[float]) -> np.ndarray:
    """P, QRS and T of each beat, the R wave 1 high."""
    trace = np.zeros_like(time)
    for beat in beats:
        for delay, height, width in ((-0.16, 0.12, 0.03), (-0.02, -0.15, 0.008), (0, 1, 0.012), (0.03, -0.2, 0.01),
                                     (0.26, 0.25, 0.05)):  # fmt: skip
            trace += height * np.exp(-0.5 * ((time - beat - delay) / width) ** 2)
    return trace
