"""The pixel baseline that stands beside every encoder: what a ridge can see without learning anything."""

import cv2
import numpy as np

SIDE = 28


def pixel_features(frames: np.ndarray, num_valid: int) -> np.ndarray:
    """Mean frame and temporal-std frame at 28 x 28 of a clip standardised to zero mean and unit deviation.

    Args:
      frames: uint8 [T, H, W], grey.
      num_valid: how many of the T frames are real; the rest (repeats of the last) are left out.

    Returns:
      float32 [2 * 28 * 28], the mean frame and then the deviation frame, row by row. A clip of one grey level
      gives zeros.

    Raises:
      ValueError: frames of another rank, or num_valid outside 1..T.
    """
    if frames.ndim != 3:
        raise ValueError(f"frames must be [T, H, W], got shape {frames.shape}")
    if not 1 <= num_valid <= len(frames):
        raise ValueError(f"num_valid must be 1 to {len(frames)} for {len(frames)} frames, got {num_valid}")
    clip = frames[:num_valid].astype(np.float32)
    deviation = float(clip.std(dtype=np.float64)) or 1.0
    # Standardising the two pictures equals standardising the clip, and keeps the deviation of a pixel that
    # never changes at exactly 0: rounding noise there would be blown up by a head that scales its inputs.
    mean = (clip.mean(axis=0, dtype=np.float64) - clip.mean(dtype=np.float64)) / deviation
    spread = clip.std(axis=0, dtype=np.float64) / deviation
    pictures = [cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for picture in (mean, spread)]
    return np.concatenate([picture.reshape(-1) for picture in pictures]).astype(np.float32)
