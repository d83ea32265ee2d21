"""Fixed sinusoid positions over a flattened token grid."""

import numpy as np

BASE = 10000.0


def sinusoid(positions: np.ndarray, width: int) -> np.ndarray:
    """Sinusoid embedding of (possibly fractional) positions: sine on even channels, cosine on odd ones.

    Args:
      positions: float or int [N], position of each token in the flattened grid.
      width: number of channels D.

    Returns:
      float32 [N, D].
    """
    channel = np.arange(width)
    angle = np.asarray(positions, np.float64)[:, None] / BASE ** (2 * (channel // 2) / width)
    return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


def encoder_positions(num_tokens: int, width: int) -> np.ndarray:
    """Positions 0 .. N-1 of the encoders; CLS has none (zeros). Returns float32 [N, D]."""
    return sinusoid(np.arange(num_tokens), width)


def decoder_positions(num_tokens: int, width: int) -> np.ndarray:
    """Positions 1 .. N of the decoder: the public code drops the first row of a longer table."""
    return sinusoid(np.arange(1, num_tokens + 1), width)
