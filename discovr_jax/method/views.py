"""What each local view of a clip sees: its own crop, brightness and noise, drawn on the device; another heart beat.

Views that differ by masks alone are matched by shortcuts (gain, position and size of the heart); views with their own
crop, brightness and heart beat are not, and what they have in common is how the heart moves.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from discovr_jax.errors import ConfigError

POSITIVES = ("same", "other_beat")
_ASPECT = 0.12  # largest logarithm of a crop's height over its mean side, where crops are drawn


@dataclasses.dataclass(frozen=True)
class ViewOptions:
    """Names and meaning are those of `config.views`; all at 0 and "same" leave views to their masks."""

    positive: str = "same"
    crop: float = 1.0
    gamma: float = 0.0
    gain: float = 0.0
    attenuation: float = 0.0
    noise: float = 0.0
    phase_frames: int = 0  # frames per clip of the two views of `loss.phase`; 0 where it is off

    def __post_init__(self):
        if self.positive not in POSITIVES:
            raise ConfigError(f"views.positive must be one of {POSITIVES}, not {self.positive!r}")
        if not 0 < self.crop <= 1:
            raise ConfigError(f"views.crop = {self.crop} must be in (0, 1]: the smallest side of a crop, of the frame")
        amounts = {name: getattr(self, name) for name in ("gamma", "gain", "attenuation", "noise")}
        if wrong := [f"views.{name} = {value}" for name, value in amounts.items() if value < 0]:
            raise ConfigError(f"{', '.join(wrong)} must not be negative")
        if self.phase_frames and not self.active:
            raise ConfigError("loss.phase compares views of a frame, which are equal: set views.crop, gamma, gain, ...")

    @property
    def active(self) -> bool:
        """Whether views differ by more than their masks."""
        return dataclasses.replace(self, phase_frames=0) != MASKS_ALONE


MASKS_ALONE = ViewOptions()


def input_shapes(options: ViewOptions, clips: int, frames: int, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What the step takes of a batch: frames uint8 [B, T, S, S] and num_valid int32 [B]; with a second clip per video
    also other_frames and other_valid."""
    names = [("frames", "num_valid")]
    if options.positive == "other_beat":
        names.append(("other_frames", "other_valid"))
    shapes = {}
    for pixels, valid in names:
        shapes[pixels] = jax.ShapeDtypeStruct((clips, frames, size, size), jnp.uint8)
        shapes[valid] = jax.ShapeDtypeStruct((clips,), jnp.int32)
    return shapes


def add_views(key: jax.Array, batch: dict, options: ViewOptions, count: int) -> dict:
    """The batch with what each of `count` local views sees, and the two views of `loss.phase`.

    Args:
      key: of this step.
      batch: frames uint8 [B, T, H, W], num_valid int32 [B]; with positive "other_beat" also other_frames and
        other_valid, a second clip of the same video, which every other view is drawn from, beginning with the first.

    Returns:
      frames and num_valid as they were; where `options.active` also views float32 [B, count, T, H, W] in grey levels
      and views_valid int32 [B, count]; with `options.phase_frames` = F also phase_views float32 [B, 2, F, H, W], of
      evenly spaced frames of the clip, and phase_valid int32 [B], how many of those are real.
    """
    clip = {"frames": batch["frames"], "num_valid": batch["num_valid"]}
    if not options.active:
        return clip
    other = clip
    if options.positive == "other_beat":
        other = {"frames": batch["other_frames"], "num_valid": batch["other_valid"]}
    sources = [other if number % 2 == 0 else clip for number in range(count)]
    views = [
        augment(each, source["frames"], options)
        for each, source in zip(jax.random.split(key, count), sources, strict=True)
    ]
    valid = [source["num_valid"] for source in sources]
    result = clip | {"views": jnp.stack(views, 1), "views_valid": jnp.stack(valid, 1)}
    if options.phase_frames:
        result |= phase_views(jax.random.fold_in(key, 1), batch["frames"], batch["num_valid"], options)
    return result


def phase_views(key: jax.Array, frames: jax.Array, num_valid: jax.Array, options: ViewOptions) -> dict[str, jax.Array]:
    """Two views of the same evenly spaced frames; see `add_views`."""
    every = frames.shape[1] // options.phase_frames
    pair = [augment(each, frames[:, ::every], options) for each in jax.random.split(key)]
    return {"phase_views": jnp.stack(pair, 1), "phase_valid": -(-num_valid // every)}


def augment(
    key: jax.Array, frames: Shaped[Array, "clips time height width"], options: ViewOptions
) -> Float[Array, "clips time height width"]:
    """A random view of each clip, the same in all its frames but for the noise.

    Crop, then gamma, gain, attenuation with depth and across the sector, and noise.

    Args:
      frames: grey levels [B, T, H, W], uint8 or float.

    Returns:
      float32 [B, T, H, W], grey levels in 0..255.
    """
    keys = iter(jax.random.split(key, 9))
    batch, _, height, width = frames.shape
    x = frames.astype(jnp.float32) / 255

    def uniform(low, high):
        return jax.random.uniform(next(keys), (batch,), minval=low, maxval=high)

    def normal(amount):
        return amount * jax.random.normal(next(keys), (batch, 1, 1, 1))

    if options.crop < 1:
        side, aspect = uniform(options.crop, 1.0), jnp.exp(uniform(-_ASPECT, _ASPECT))
        tall, wide = jnp.minimum(side * aspect, 1.0), jnp.minimum(side / aspect, 1.0)
        rows = resize_matrix(uniform(0.0, 1.0) * (1 - tall), tall, height)
        columns = resize_matrix(uniform(0.0, 1.0) * (1 - wide), wide, width)
        x = jnp.einsum("byh,bthw,bxw->btyx", rows, x, columns)
    if options.gamma:
        power = jnp.exp(uniform(-options.gamma, options.gamma))[:, None, None, None]
        x = jnp.maximum(x, 1e-4) ** power
    if options.gain:
        x = x * jnp.exp(normal(options.gain))
    if options.attenuation:
        down, across = jnp.linspace(-0.5, 0.5, height)[:, None], jnp.linspace(-0.5, 0.5, width)
        slopes = jax.random.normal(next(keys), (2, batch, 1, 1, 1)) * options.attenuation
        x = x * jnp.exp(slopes[0] * down + slopes[1] * across)
    if options.noise:
        level, grain = jax.random.split(next(keys))
        x = x + options.noise * jax.random.uniform(level, (batch, 1, 1, 1)) * jax.random.normal(grain, x.shape)
    return 255 * jnp.clip(x, 0, 1)


def resize_matrix(
    start: Float[Array, "clips"], share: Float[Array, "clips"], size: int
) -> Float[Array, "clips size size"]:
    """Linear interpolation of a stretch of `size` pixels to `size` pixels, as a matrix: crops are then products.

    Args:
      start, share: float32 [B], where the stretch begins and how long it is, in lengths of the whole; share <= 1.

    Returns:
      float32 [B, size, size], rows sum to 1.
    """
    centres = (start[:, None] + (jnp.arange(size) + 0.5) / size * share[:, None]) * size
    centres = jnp.clip(centres, 0.5, size - 0.5)  # the border pixel is repeated
    return jnp.maximum(1 - jnp.abs(centres[:, :, None] - (jnp.arange(size) + 0.5)), 0)
