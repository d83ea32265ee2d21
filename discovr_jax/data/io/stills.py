"""Reads a still, a single grey picture of a file (.png), as a video of one frame. Nothing else in the file is read."""

import pathlib
import struct
import zlib

import numpy as np

from discovr_jax.data.io.video import Video, VideoError, check_size


def read_still(path: pathlib.Path) -> Video:
    """One picture of 8 bits; colour becomes luma.

    `read.read_video` refuses stills, as a study is full of them and they are no clips; datasets of stills call this.

    Returns:
      A `Video` of one frame, uint8 [1, H, W], with no frame rate and no spacing.

    Raises:
      VideoError: no such file, no PNG, damaged or cut off, or of more than 8 bits.
    """
    import PIL.Image

    if not path.is_file():
        raise VideoError(f"{path}: no such file.")
    try:
        # Only this format: another decoder would be asked by what the file's first bytes say.
        with PIL.Image.open(path, formats=("PNG",)) as picture:
            check_size(path, getattr(picture, "n_frames", 1), picture.height, picture.width, 4)
            if picture.mode.startswith(("I", "F")):
                raise VideoError(f"{path}: a picture of mode {picture.mode}; grey levels of 8 bits are read.")
            grey = np.asarray(picture.convert("L"))
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error, PIL.Image.DecompressionBombError) as error:
        if isinstance(error, VideoError):
            raise
        raise VideoError(f"{path}: not a readable PNG ({type(error).__name__}); copy it again.") from None
    return Video(np.ascontiguousarray(grey)[None])
