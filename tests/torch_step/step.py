"""The training step of `network.Network`: masks, objective, AdamW, teachers, by the defaults of `fidelity = paper`."""

import dataclasses

import torch
from torch.nn import functional

from tests.torch_step.network import Network, Sizes, patches

STUDENT_TEMPERATURE, SCD_TEMPERATURE, EPSILON, ITERATIONS, CENTER_MOMENTUM = 0.1, 0.1, 0.05, 10, 0.9


@dataclasses.dataclass(frozen=True)
class Masks:
    """Visible tokens, int64: decoder_view [B, V], local_views [B, views, V], image_views [B * T, views, v]."""

    decoder_view: torch.Tensor
    local_views: torch.Tensor
    image_views: torch.Tensor


def draw_masks(sizes: Sizes, clips: int) -> Masks:
    """Tubes: the same patches in every tubelet of a view; other ones in each frame's views."""

    def draw(rows, views, visible):
        return torch.rand(rows, views, sizes.positions).argsort(-1)[..., :visible].sort(-1).values

    places = draw(clips, 1 + sizes.video_views, sizes.video_visible)
    offsets = torch.arange(sizes.time)[:, None] * sizes.positions
    tubes = (places[:, :, None] + offsets).flatten(2)
    frames = clips * sizes.time * sizes.tubelet
    return Masks(tubes[:, 0], tubes[:, 1:], draw(frames, sizes.image_views, sizes.image_visible))


def objective(network: Network, frames: torch.Tensor, num_valid: torch.Tensor, masks: Masks, temperature: float):
    """The total loss and the centres for the next step.

    Args:
      frames: uint8 [B, T, H, W]; num_valid: [B], real frames; temperature: of the teachers.
    """
    sizes, clips = network.sizes, len(frames)
    tubelets = patches(frames, sizes.tubelet, sizes.patch)
    single = patches(frames.flatten(0, 1)[:, None], 1, sizes.patch)
    real = (torch.arange(frames.shape[1]) < num_valid[:, None]).flatten().float()
    with torch.no_grad():
        video_targets = network.video_teacher_head(network.video_teacher(tubelets)[:, 0])
        image_tokens = network.image_teacher(single)
        image_targets = network.image_teacher_head(image_tokens[:, 0])
        video_center = _center(network.video_center, video_targets, torch.ones(clips))
        image_center = _center(network.image_center, image_targets, real)
        # Of the frames, the first of each tubelet is compared with the video's tokens.
        image_tokens = image_tokens[:, 1:].view(clips, -1, sizes.positions, sizes.width)[:, :: sizes.tubelet]

    views = torch.cat([masks.decoder_view[:, None], masks.local_views], 1)
    encoded = network.encoder(tubelets, views).view(clips, views.shape[1], 1 + views.shape[2], sizes.width)
    decoded = network.decode(encoded[:, 0, 1:], masks.decoder_view)
    video_scores = network.video_dino_head(encoded[:, 1:, 0])
    image_cls = network.image_student(single, masks.image_views)[:, 0]
    image_scores = network.image_dino_head(image_cls.view(len(single), -1, sizes.width))
    video_loss = _distilled(video_targets, video_center, video_scores, temperature, torch.ones(clips))
    image_loss = _distilled(image_targets, image_center, image_scores, temperature, real)
    total = video_loss + image_loss + _clusters(network.prototypes, decoded, image_tokens)
    video_center = _updated_center(video_center, video_targets, torch.ones(clips))
    return total, (video_center, _updated_center(image_center, image_targets, real))


def _row_mean(rows, weights):
    return (weights @ rows)[None] / weights.sum()


def _center(center, logits, weights):
    """The centre, or this batch's mean where it is still zero."""
    return torch.where((center != 0).any(), center, _row_mean(logits, weights))


def _updated_center(center, logits, weights):
    return CENTER_MOMENTUM * center + (1 - CENTER_MOMENTUM) * _row_mean(logits, weights)


def _distilled(teacher, center, student, temperature, weights):
    """Cross-entropy of views [N, M, K] to the teacher's targets [N, K]; mean over views and weighted rows."""
    targets = ((teacher - center) / temperature).softmax(-1)
    per_view = -(targets[:, None] * (student / STUDENT_TEMPERATURE).log_softmax(-1)).sum(-1)
    return (per_view.mean(1) * weights).sum() / weights.sum()


def _clusters(prototypes, decoded, image_tokens):
    """Semantic cluster distillation of decoder tokens [B, N, D] and image teacher tokens [B, t, P, D]."""
    std, mean = torch.std_mean(image_tokens, 2, keepdim=True)
    standardised = ((image_tokens - mean) / (std + 1e-6)).flatten(0, 2)
    video, image = (functional.normalize(x, dim=-1) @ prototypes.T for x in (decoded.flatten(0, 1), standardised))

    def cross_entropy(scores, assignments):
        return -(assignments * (scores / SCD_TEMPERATURE).log_softmax(-1)).sum(-1).mean()

    return cross_entropy(video, assigned(image)) + cross_entropy(image, assigned(video))


@torch.no_grad()
def assigned(scores):
    """Sinkhorn-Knopp of cosines [N, K]: rows sum to 1, columns are used equally."""
    rows, columns = scores.shape
    kernel = ((scores - 1) / EPSILON).exp()
    row = torch.full((rows,), 1 / rows)
    for _ in range(ITERATIONS):
        column = 1 / (columns * (row @ kernel))
        row = 1 / (rows * (kernel @ column))
    return functional.normalize(kernel * column, p=1, dim=1)


class Step:
    """Trains a network; learning rate, temperature and momentum are fixed here, as no time depends on them."""

    def __init__(self, network: Network, lr: float, temperature: float, momentum: float, weight_decay: float = 0.05):
        self.network, self._temperature, self._momentum = network, temperature, momentum
        trained = network.trained()
        exempt = ("cls_token", "mask_token", "prototypes")
        decaying = {name for name, p in trained.items() if p.ndim > 1 and not name.endswith(exempt)}
        groups = [
            {"params": [p for name, p in trained.items() if name in decaying], "weight_decay": weight_decay},
            {"params": [p for name, p in trained.items() if name not in decaying], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), eps=1e-8, fused=True)

    def __call__(self, frames: torch.Tensor, num_valid: torch.Tensor, masks: Masks | None = None) -> float:
        """One step, and its loss before it; masks are drawn unless given."""
        network = self.network
        with torch.no_grad():
            network.prototypes.copy_(functional.normalize(network.prototypes, dim=1))
        masks = draw_masks(network.sizes, len(frames)) if masks is None else masks
        total, centers = objective(network, frames, num_valid, masks, self._temperature)
        self._optimizer.zero_grad()
        total.backward()
        self._optimizer.step()
        network.follow(self._momentum)
        network.video_center, network.image_center = centers
        return total.item()
