"""From clips to patches, and the linear patch embedding for grey and for three-channel input."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Shaped

from discovr_jax.errors import ConfigError

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
STANDARDISE_EPS = 1e-6
MOTION = ("none", "deviation", "energy")  # of model.motion, see `motion_channels`


def patchify(
    frames: Shaped[Array, "clips time height width *channels"], tubelet: int, patch: int
) -> Shaped[Array, "clips tokens patch_dim"]:
    """Cut clips into flattened patches in raster order (tubelet, row, column).

    Args:
      frames: [B, T, H, W] grey or [B, T, H, W, C].
      tubelet: frames per patch.
      patch: pixels per patch side.

    Returns:
      [B, N, tubelet * patch * patch (* C)], N = T/tubelet * H/patch * W/patch.
    """
    batch, time, height, width = frames.shape[:4]
    if time % tubelet or height % patch or width % patch:
        raise ValueError(
            f"clip of {time} frames of {height} x {width} cannot be cut into patches of "
            f"{tubelet} x {patch} x {patch}: choose data.num_frames and data.image_size as multiples"
        )
    channels = frames.shape[4:]
    x = frames.reshape(
        batch, time // tubelet, tubelet, height // patch, patch, width // patch, patch, *channels
    )
    x = jnp.moveaxis(x, (1, 3, 5), (1, 2, 3))
    return x.reshape(batch, (time // tubelet) * (height // patch) * (width // patch), -1)


def gather_tokens(
    tokens: Shaped[Array, "clips tokens width"], index: Int[Array, "clips visible"]
) -> Shaped[Array, "clips visible width"]:
    """Pick tokens [B, V, C] of [B, N, C] by index int32 [B, V]."""
    return jnp.take_along_axis(tokens, index[:, :, None], axis=1)


def clip_standardised(
    frames: Shaped[Array, "clips time height width"], num_valid: Int[Array, "clips"]
) -> Float32[Array, "clips time height width"]:
    """Each clip to zero mean and unit standard deviation over its valid frames.

    Args:
      frames: grey levels [B, T, H, W], uint8 or float.
      num_valid: int32 [B], real frames; later ones repeat the last and do not count.

    Returns:
      float32 [B, T, H, W].
    """
    x = frames.astype(jnp.float32)
    valid = _valid_frames(x, num_valid)
    count = valid.sum((1, 2, 3), keepdims=True) * x.shape[2] * x.shape[3]
    mean = (x * valid).sum((1, 2, 3), keepdims=True) / count
    variance = ((x - mean) ** 2 * valid).sum((1, 2, 3), keepdims=True) / count
    return (x - mean) * jax.lax.rsqrt(variance + STANDARDISE_EPS)


def model_input(
    frames: Shaped[Array, "clips time height width *channels"], num_valid: Int[Array, "clips"], input_normalisation: str
) -> Float[Array, "clips time height width *channels"]:
    """Grey input of the patch embedding: raw 0..255 for "imagenet" (normalisation is folded into the
    embedding), standardised for "clip". Three-channel float input, already normalised, passes unchanged.

    Returns: float32 [B, T, H, W] (or [B, T, H, W, 3]).
    """
    if frames.ndim == 5:
        return frames
    if input_normalisation == "imagenet":
        return frames.astype(jnp.float32)
    if input_normalisation == "clip":
        return clip_standardised(frames, num_valid)
    raise ConfigError(f"model.input_normalisation must be 'imagenet' or 'clip', not {input_normalisation!r}")


def motion_channels(
    frames: Shaped[Array, "clips time height width"], num_valid: Int[Array, "clips"], motion: str, cell: int
) -> Float32[Array, "clips time height width 2"]:
    """Two channels that show motion, of the standardised clip.

    The ejection fraction is an amplitude: no time mean of anything linear in the frames holds it. These channels do the
    first non-linear step for the network.

    Args:
      frames: grey levels [B, T, H, W], uint8 or float.
      num_valid: int32 [B], real frames.
      motion: "energy" (the frame, motion energy) or "deviation" (the frame minus the mean frame of the clip, motion
        energy). Motion energy is the temporal std of the mean of each grid cell, the same in every frame.
      cell: pixels of a grid cell's side; averaging removes speckle that decorrelates from frame to frame.

    Returns:
      float32 [B, T, H, W, 2], scaled to about unit size on echocardiograms.

    Raises:
      ConfigError: another `motion`.
    """
    if motion not in MOTION[1:]:
        raise ConfigError(f"model.motion must be one of {MOTION}, not {motion!r}")
    x = clip_standardised(frames, num_valid)
    valid = _valid_frames(x, num_valid)
    count = valid.sum(1, keepdims=True)
    batch, time, height, width = x.shape
    cells = x.reshape(batch, time, height // cell, cell, width // cell, cell).mean((3, 5))
    cells = cells - (cells * valid).sum(1, keepdims=True) / count
    energy = jnp.sqrt((cells**2 * valid).sum(1, keepdims=True) / count + STANDARDISE_EPS)
    energy = jnp.broadcast_to(energy.repeat(cell, 2).repeat(cell, 3), x.shape)
    first = x if motion == "energy" else 2 * (x - (x * valid).sum(1, keepdims=True) / count)
    return jnp.stack([first, 3 * energy - 1], -1)


def _valid_frames(x, num_valid):
    """float32 [B, T, 1, 1]: 1 for real frames, 0 for those that repeat the last."""
    return (jnp.arange(x.shape[1]) < num_valid[:, None]).astype(jnp.float32)[:, :, None, None]


def fold_grey(
    kernel: Float32[Array, "tubelet patch patch 3 width"], bias: Float32[Array, "width"], input_normalisation: str
) -> tuple[Float32[Array, "patch_dim width"], Float32[Array, "width"]]:
    """Fold three equal channels and their normalisation into one grey channel.

    x_c = g * scale_c + shift_c, so sum_c w_c x_c = g * sum_c w_c scale_c + sum_c w_c shift_c.

    Args:
      kernel: float32 [t, p, p, 3, D].
      bias: float32 [D].
      input_normalisation: "imagenet" (g is 0..255; scale 1 / (255 s_c), shift -m_c / s_c) or "clip" (scale 1, shift 0).

    Returns:
      kernel [t * p * p, D] and bias [D], float32.
    """
    if input_normalisation == "clip":
        return kernel.sum(3).reshape(-1, kernel.shape[-1]), bias
    scale, shift = 1 / (255 * IMAGENET_STD), -IMAGENET_MEAN / IMAGENET_STD
    folded = jnp.einsum("tijcd,c->tijd", kernel, scale).reshape(-1, kernel.shape[-1])
    return folded, bias + jnp.einsum("tijcd,c->d", kernel, shift)


class PatchEmbed(nn.Module):
    """Linear embedding of flattened patches. The parameter is [t, p, p, 3, D] for grey and for three-channel input."""

    tubelet: int
    patch: int
    width: int
    input_normalisation: str
    dtype: jnp.dtype
    channels: int = 3

    @nn.compact
    def __call__(self, patches: jax.Array) -> jax.Array:
        """[B, N, t*p*p] grey or [B, N, t*p*p*channels] -> [B, N, D]."""
        patch_dim = self.tubelet * self.patch**2
        shape = (self.tubelet, self.patch, self.patch, self.channels, self.width)
        kernel = self.param("kernel", _xavier_patch, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        if patches.shape[-1] == patch_dim:
            kernel, bias = fold_grey(kernel, bias, self.input_normalisation)
        else:
            kernel = kernel.reshape(patch_dim * self.channels, self.width)
        product = jnp.einsum(
            "bnc,cd->bnd",
            patches.astype(self.dtype),
            kernel.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
        return (product + bias).astype(self.dtype)


def _xavier_patch(key, shape, dtype=jnp.float32):
    fan_in, fan_out = int(np.prod(shape[:-1])), shape[-1]
    bound = (6.0 / (fan_in + fan_out)) ** 0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)
