"""The DISCOVR network: students, teachers and decoder as one set of modules. No loss and no EMA in here.

A teacher is the same module applied to another parameter tree, so `teacher` and `student` below differ only in
the parameters that `apply` is given.
"""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from discovr_jax.models import patches, positions, readouts
from discovr_jax.models.decoder import Decoder
from discovr_jax.models.encoders import Encoder
from discovr_jax.models.heads import DINOHead, Projector, Prototypes

# What `teacher` and `student` can give; a name that both have is given by both.
OUTPUTS = (
    "video_logits", "embeddings", "image_logits", "frame_embeddings", "frame_amplitudes", "image_tokens", "decoded",
    "pixels", "prototypes",
)  # fmt: skip
LOCAL_VIEWS = frozenset({"video_logits", "embeddings"})  # those for which the local views are encoded
GLOBAL_VIEW = frozenset({"decoded", "pixels", "frame_amplitudes"})  # likewise the global view
VIDEO_NORM_EPS, IMAGE_NORM_EPS = 1e-6, 1e-5


@dataclasses.dataclass(frozen=True)
class ClipGrid:
    """Token grid of a clip: `time` tubelets of `tubelet` frames, `rows` x `cols` patches a frame."""

    time: int
    rows: int
    cols: int
    tubelet: int

    @property
    def num_positions(self) -> int:
        return self.rows * self.cols

    @property
    def tokens(self) -> int:
        return self.time * self.num_positions

    @property
    def frames(self) -> int:
        return self.time * self.tubelet


@flax.struct.dataclass
class Masks:
    """What each view sees: indices of visible tokens, int32, ascending.

    decoder_view [B, V]; local_views: tuple (one per view) of [B, V_m]; image_views: tuple of [B * T, V_n] over the
    patches of a frame, frames in order (clip, frame).
    """

    decoder_view: jax.Array
    local_views: tuple[jax.Array, ...]
    image_views: tuple[jax.Array, ...]


@flax.struct.dataclass
class StudentOutputs:
    """Outputs that the losses read; None where nothing reads them."""

    video_logits: jax.Array | None  # float32 [B, M, K]
    embeddings: jax.Array | None  # float32 [B, M, E], of the local views' CLS, by the projector
    image_logits: jax.Array | None  # float32 [B * T, N, K]
    frame_embeddings: jax.Array | None  # float32 [B, F, 2, E], of CLS of frames in two views, by the frame projector
    decoded: jax.Array | None  # [B, tokens, D], raster order
    pixels: jax.Array | None  # float32 [B, tokens, patch_dim]
    prototypes: jax.Array | None  # float32 [prototypes, D]
    frame_amplitudes: jax.Array | None = None  # float32 [B, D], the teacher's, predicted from CLS of the global view


@flax.struct.dataclass
class TeacherOutputs:
    """video_logits [B, K]; image_logits [B * F, K]; image_tokens [B, F, P, D]; cls float32 [B, D];
    frame_amplitudes float32 [B, D], temporal standard deviation of the frames' CLS.

    Here F is T, or the first frame of each tubelet where no image loss asks for the others.
    """

    video_logits: jax.Array | None
    image_logits: jax.Array | None
    image_tokens: jax.Array | None
    cls: jax.Array | None
    frame_amplitudes: jax.Array | None = None


class Discovr(nn.Module):
    """Both encoders, both heads, the decoder and the prototypes.

    `outputs` says what the losses read, of `OUTPUTS`: the rest is neither built nor computed.
    """

    grid: ClipGrid
    patch: int
    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    video_qkv_bias: str
    image_qkv_bias: str
    input_normalisation: str
    head_hidden: int
    head_bottleneck: int
    head_outputs: int
    head_init: str
    num_prototypes: int
    outputs: frozenset[str]
    scd_frames: str  # "tubelet": the first frame of each; "all": the reference pairing needs every frame
    dtype: jnp.dtype
    remat: str = "none"
    attention: str = "reference"  # implementation, of models/attention.py
    positions: str = "1d"  # of `positions.KINDS`
    position_grid: tuple[int, int, int] | None = None  # (time, rows, cols) to count positions in; None: `grid`
    mlp_dim: int | None = None  # of the encoders; None: 4 x width
    motion: str = "none"  # input of the video encoder: grey, or of `patches.motion_channels`
    projector_hidden: int = 0  # of "jepa", "phase" and "amplitude"
    projector_outputs: int = 0
    phase_frames: int = 0  # frames per clip of "frame_embeddings"

    def setup(self):
        if unknown := sorted(self.outputs.difference(OUTPUTS)):
            raise ValueError(f"the model has no outputs {unknown}, only {OUTPUTS}")

        def encoder(tubelet, qkv_bias, eps, channels=3):
            return Encoder(
                self.width,
                self.depth,
                self.heads,
                tubelet,
                self.patch,
                qkv_bias,
                eps,
                self.input_normalisation,
                self.dtype,
                self.remat,
                self.attention,
                self.mlp_dim,
                channels,
            )

        def head():
            return DINOHead(self.head_hidden, self.head_bottleneck, self.head_outputs, self.head_init, self.dtype)

        channels = 3 if self.motion == "none" else 2
        self.video_encoder = encoder(self.grid.tubelet, self.video_qkv_bias, VIDEO_NORM_EPS, channels)
        self.image_encoder = encoder(1, self.image_qkv_bias, IMAGE_NORM_EPS)
        self.video_head, self.image_head = head(), head()
        self.decoder = Decoder(
            self.decoder_width,
            self.decoder_depth,
            self.decoder_heads,
            self.width,
            self.grid.tokens,
            self.video_qkv_bias,
            VIDEO_NORM_EPS,
            self.dtype,
            self.remat,
            self.attention,
        )
        self.pixel_head = nn.Dense(self.grid.tubelet * self.patch**2, dtype=self.dtype)
        self.prototypes = Prototypes(self.num_prototypes, self.width)
        self.projector = Projector(self.projector_hidden, self.projector_outputs, self.dtype)
        self.frame_projector = Projector(self.projector_hidden, self.projector_outputs, self.dtype)
        self.amplitude_predictor = Projector(self.projector_hidden, self.width, self.dtype)
        sizes, counted_in = (self.grid.time, self.grid.rows, self.grid.cols), self.position_grid
        count = positions.KINDS[self.positions]
        self.clip_positions = count(sizes, counted_in)
        self.frame_positions = count(sizes[1:], counted_in and counted_in[1:])

    def video_patches(self, frames: jax.Array, num_valid: jax.Array) -> jax.Array:
        """Clips -> [B, tokens, patch_dim] of tubelets, as the video encoder takes them."""
        if self.motion == "none":
            return self.grey_patches(frames, num_valid)
        x = patches.motion_channels(frames, num_valid, self.motion, cell=self.patch // 2)
        return patches.patchify(x, self.grid.tubelet, self.patch)

    def grey_patches(self, frames: jax.Array, num_valid: jax.Array) -> jax.Array:
        """Clips -> [B, tokens, patch_dim] of tubelets, grey levels alone: the target of pixel reconstruction."""
        x = patches.model_input(frames, num_valid, self.input_normalisation)
        return patches.patchify(x, self.grid.tubelet, self.patch)

    def frame_patches(self, frames: jax.Array, num_valid: jax.Array, every: int = 1) -> jax.Array:
        """Clips -> [B * F, positions, patch_dim] of single frames, every `every`-th frame."""
        x = patches.model_input(frames, num_valid, self.input_normalisation)[:, ::every]
        x = patches.patchify(x, 1, self.patch)
        return x.reshape(-1, self.grid.num_positions, x.shape[-1])

    def encode_video(self, frames: jax.Array, num_valid: jax.Array, only_cls: bool = False) -> jax.Array:
        """All tokens of clips: [B, T, H, W] -> [B, 1 + tokens, D]; token 0 is CLS, or the only one."""
        tubelets = self.video_patches(frames, num_valid)
        return self.video_encoder(tubelets, at=self.clip_positions, only_cls=only_cls)

    def decode_video(self, tokens: jax.Array) -> jax.Array:
        """What the decoder makes of whole clips, nothing masked: [B, 1 + tokens, D] -> [B, 1 + tokens, D].

        Training masks clips; this is for features (`models.readouts`), where CLS stays the encoder's.
        """
        everywhere = jnp.broadcast_to(jnp.arange(self.grid.tokens), (tokens.shape[0], self.grid.tokens))
        return jnp.concatenate([tokens[:, :1], self.decoder(tokens[:, 1:], everywhere, self.clip_positions)], 1)

    @property
    def image_teacher_every(self) -> int:
        """In training the image teacher sees every so many-th frame of a clip.

        SCD and amplitudes alone need the first of each tubelet only; a single one has no amplitude.
        """
        one_tubelet = "frame_amplitudes" in self.outputs and self.grid.time == 1
        all_frames = "image_logits" in self.outputs or self.scd_frames == "all" or one_tubelet
        return 1 if all_frames else self.grid.tubelet

    def encode_frames(self, frames: jax.Array, num_valid: jax.Array, every: int = 1) -> jax.Array:
        """All tokens of single frames: [B, T, H, W] -> [B * F, 1 + positions, D]; token 0 is CLS."""
        return self.image_encoder(self.frame_patches(frames, num_valid, every), at=self.frame_positions)

    def teacher(self, frames: jax.Array, num_valid: jax.Array) -> TeacherOutputs:
        """Both teachers on whole clips. The image teacher sees each frame once, for L_img and SCD alike."""
        video_logits = image_logits = image_tokens = cls = frame_amplitudes = None
        if "video_logits" in self.outputs:
            cls = self.encode_video(frames, num_valid, only_cls=True)[:, 0]
            video_logits = self.video_head(cls)
            cls = cls.astype(jnp.float32)
        if self.outputs & {"image_logits", "image_tokens", "frame_amplitudes"}:
            every = self.image_teacher_every
            tokens = self.encode_frames(frames, num_valid, every)
            if "image_logits" in self.outputs:
                image_logits = self.image_head(tokens[:, 0])
            if "image_tokens" in self.outputs:
                image_tokens = tokens[:, 1:].reshape(frames.shape[0], -1, self.grid.num_positions, self.width)
            if "frame_amplitudes" in self.outputs:
                frame_cls = tokens[:, 0].reshape(frames.shape[0], -1, self.width)
                frame_amplitudes = readouts.frame_readouts(frame_cls, -(-num_valid // every))["frame_std"]
        return TeacherOutputs(video_logits, image_logits, image_tokens, cls, frame_amplitudes)

    def student(
        self,
        frames: jax.Array,
        num_valid: jax.Array,
        masks: Masks,
        views: jax.Array | None = None,
        views_valid: jax.Array | None = None,
        phase_views: jax.Array | None = None,
        phase_valid: jax.Array | None = None,
    ) -> StudentOutputs:
        """Both students on the masked views, and the decoder on the global view.

        Args:
          frames, num_valid, masks: of the clip.
          views: float32 [B, M, T, H, W], what each local view sees in place of `frames` (`method.views`); None where
            views differ by masks alone. views_valid: int32 [B, M].
          phase_views: float32 [B, 2, F, H, W], frames of the clip in two views; not masked. phase_valid: int32 [B].
        """
        video_logits = embeddings = image_logits = frame_embeddings = frame_amplitudes = None
        decoded = pixels = prototypes = None
        global_view = (masks.decoder_view,) if self.outputs & GLOBAL_VIEW else ()
        local = masks.local_views if self.outputs & LOCAL_VIEWS else ()
        if views is None:
            # All views of a clip in one call.
            together = global_view + local
            encoded = self.video_views(frames, num_valid, together) if together else []
        else:
            encoded = self.video_views(frames, num_valid, global_view) if global_view else []
            encoded += self.augmented_views(views, views_valid, local)
        if self.outputs & {"decoded", "pixels"}:
            decoded = self.decoder(encoded[0][:, 1:], masks.decoder_view, self.clip_positions)
        if local:
            local_cls = jnp.stack([tokens[:, 0] for tokens in encoded[-len(local) :]], 1)
            if "video_logits" in self.outputs:
                video_logits = self.video_head(local_cls)
            if "embeddings" in self.outputs:
                embeddings = self.projector(local_cls)
        if "image_logits" in self.outputs:
            image_logits = self.image_head(self.frame_views(frames, num_valid, masks.image_views))
        if "frame_embeddings" in self.outputs:
            frame_embeddings = self.frame_projector(self.whole_frames(phase_views, phase_valid))
        if "frame_amplitudes" in self.outputs:
            frame_amplitudes = self.amplitude_predictor(encoded[0][:, 0])
        if "pixels" in self.outputs:
            pixels = self.pixel_head(decoded).astype(jnp.float32)
        if "prototypes" in self.outputs:
            prototypes = self.prototypes()
        return StudentOutputs(
            video_logits, embeddings, image_logits, frame_embeddings, decoded, pixels, prototypes, frame_amplitudes
        )

    def whole_frames(self, views: jax.Array, num_valid: jax.Array) -> jax.Array:
        """CLS of unmasked frames in several views: [B, M, F, H, W], int32 [B] real frames -> [B, F, M, D]."""
        batch, count, time = views.shape[:3]
        clips = views.reshape(batch * count, *views.shape[2:])
        tokens = self.frame_patches(clips, jnp.repeat(num_valid, count))
        cls = self.image_encoder(tokens, at=self.frame_positions, only_cls=True)[:, 0]
        return jnp.swapaxes(cls.reshape(batch, count, time, self.width), 1, 2)

    def augmented_views(
        self, views: jax.Array, views_valid: jax.Array, masks: tuple[jax.Array, ...]
    ) -> list[jax.Array]:
        """Views that differ in their frames too: [B, M, T, H, W] and M masks -> one [B, 1 + V, D] per view."""
        batch, count = views.shape[:2]
        tubelets = self.video_patches(views.reshape(-1, *views.shape[2:]), views_valid.reshape(-1))
        tubelets = tubelets.reshape(batch, count, *tubelets.shape[1:])
        encoded = [None] * count
        for size in sorted({mask.shape[1] for mask in masks}):
            members = [i for i, mask in enumerate(masks) if mask.shape[1] == size]
            tokens = jnp.stack([tubelets[:, i] for i in members], 1).reshape(-1, *tubelets.shape[2:])
            visible = jnp.stack([masks[i] for i in members], 1).reshape(-1, size)
            out = self.video_encoder(tokens, visible, self.clip_positions)
            out = out.reshape(batch, len(members), -1, self.width)
            for slot, i in enumerate(members):
                encoded[i] = out[:, slot]
        return encoded

    def video_views(self, frames: jax.Array, num_valid: jax.Array, views: tuple[jax.Array, ...]) -> list[jax.Array]:
        """Masked views of clips, `views` as in `Masks`: one [B, 1 + V, D] a view; token 0 is CLS."""
        tubelets = self.video_patches(frames, num_valid)
        return self._encode_views(self.video_encoder, tubelets, views, self.clip_positions)

    def frame_views(self, frames: jax.Array, num_valid: jax.Array, views: tuple[jax.Array, ...]) -> jax.Array:
        """CLS of masked views of every frame, `views` as in `Masks`: [B * T, views, D]."""
        patches_of_frames = self.frame_patches(frames, num_valid)
        encoded = self._encode_views(self.image_encoder, patches_of_frames, views, self.frame_positions, only_cls=True)
        return jnp.stack([tokens[:, 0] for tokens in encoded], 1)

    def _encode_views(self, encoder, tokens, views, at, only_cls=False):
        """Encode masked views, those of equal visible count in one call. One [B, 1 + V, D] (or [B, 1, D]) a view."""
        encoded = [None] * len(views)
        for count in sorted({view.shape[1] for view in views}):
            members = [i for i, view in enumerate(views) if view.shape[1] == count]
            stacked = jnp.stack([views[i] for i in members], axis=1)
            out = encoder(tokens, stacked.reshape(-1, count), at, only_cls)
            out = out.reshape(tokens.shape[0], len(members), -1, self.width)
            for slot, i in enumerate(members):
                encoded[i] = out[:, slot]
        return encoded

    def init_student(self, frames: jax.Array, num_valid: jax.Array, masks: Masks) -> StudentOutputs:
        """Touches every module that trains; the video encoder always (it is what evaluation reads)."""
        if self.is_initializing():
            self.encode_video(frames, num_valid)
        return self.student(frames, num_valid, masks, phase_views=jnp.stack([frames, frames], 1), phase_valid=num_valid)


def apply(model: Discovr):
    """`(params, *arrays, method) -> outputs`, as `models.readouts.pooled` takes it."""
    return lambda params, *arrays, method: model.apply({"params": params}, *arrays, method=method)
