"""What each encoder expects of a clip, with the file that every number was read from.

All of them take three equal channels here, as our frames are grey: whether a pipeline reads RGB or BGR makes no
difference, but channel i still gets mean i and std i.
"""

import dataclasses

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class KnownEncoder:
    """An encoder's input and output.

    Attributes:
      frames: of a clip; stride: from one to the next, in frames of the video, whatever its frame rate.
      padding: of a video that is too short: "last" repeats its last frame, "mean" adds frames of zeros after
        normalisation, "none" gives fewer frames.
      fit: how a frame is brought to `resized`: "square" cuts the middle square out, less `margin` of its side on each
        edge; "squeeze" ignores the aspect ratio; "short side" keeps it, for the shorter side.
      resized: pixels; side: of the middle that is then cut out.
      interpolation: "cubic", "area", "linear" as in OpenCV, or "antialiased" (linear, as in Pillow).
      divisor: of grey values, before (value - mean) / std.
      per_frame: the module gets frames [B, 3, side, side], not clips [B, 3, frames, side, side]; their vectors are
        averaged over the clip, of unit length first where `unit_length`.
      widths: of a vector, by size of the network.
      weights_licence: as the repository states it.
      sources: repository, commit, files; what is not stated there is said.
    """

    frames: int
    stride: int
    padding: str
    fit: str
    resized: int
    side: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    widths: tuple[int, ...]
    weights_licence: str
    sources: str
    margin: float = 0.0
    divisor: float = 255.0
    per_frame: bool = False
    unit_length: bool = False


_VJEPA = (
    "github.com/facebookresearch/vjepa2 at c2963a4: evals/video_classification_frozen/utils.py (resized is "
    "int(256 / 224 * side), OpenCV), src/datasets/video_dataset.py (last frame again)"
)

KNOWN = {
    "echoprime": KnownEncoder(
        frames=16, stride=2, padding="mean", fit="square", margin=0.1, resized=224, side=224, interpolation="cubic",
        mean=(29.110628, 28.076836, 29.096405), std=(47.989223, 46.456997, 47.20083), divisor=1.0, widths=(512,),
        weights_licence="Academic Software License of Cedars-Sinai (LICENSE); README.md says MIT",
        sources="github.com/echonet/EchoPrime at 45609cd: echo_prime/model.py (frames, stride, padding, mean, std, "
        "width), utils/utils.py (square, margin, cubic). Screens are masked outside the sector there, not cut",
    ),
    "panecho": KnownEncoder(
        frames=16, stride=1, padding="last", fit="squeeze", resized=256, side=224, interpolation="area",
        mean=IMAGENET[0], std=IMAGENET[1], widths=(768,),
        weights_licence="CC BY-NC-SA 4.0 (LICENSES.md)",
        sources="github.com/CarDS-Yale/PanEcho at 836c46e: src/dataset.py (EchoNetDynamicDataset), hubconf.py (16 "
        "frames), README.md (width)",
    ),
    "echoclip": KnownEncoder(
        frames=20, stride=2, padding="none", fit="square", margin=0.1, resized=224, side=224, interpolation="cubic",
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711), widths=(512,),
        per_frame=True, unit_length=True,
        weights_licence="Academic Software License of Cedars-Sinai (LICENSE of the code)",
        sources="github.com/echonet/echo_CLIP at 23cd327: utils.py (square, margin, cubic), zero_shot_example.py (20 "
        "frames, stride 2), embedding_example.py (unit length, mean). Mean and std: src/open_clip/constants.py of "
        "github.com/mlfoundations/open_clip at 419b22c, and src/dataset.py of PanEcho; width: its src/models.py",
    ),
    "echojepa": KnownEncoder(
        frames=16, stride=2, padding="last", fit="short side", resized=256, side=224, interpolation="linear",
        mean=IMAGENET[0], std=IMAGENET[1], widths=(1024, 1408),
        weights_licence="MIT and Apache-2.0 for the code; of weights its README.md says nothing",
        sources="github.com/bowang-lab/EchoJEPA at 70a8a7a: configs/eval/vitl/echojepa_lvef.yaml (frames, stride, "
        "side), evals/video_classification_frozen/utils.py (resized, mean, std)",
    ),
    "vjepa2": KnownEncoder(
        frames=16, stride=4, padding="last", fit="short side", resized=292, side=256, interpolation="linear",
        mean=IMAGENET[0], std=IMAGENET[1], widths=(1024, 1280, 1408),
        weights_licence="MIT, parts Apache-2.0 (README.md)",
        sources=f"{_VJEPA}, configs/inference/vitl/ssv2.yaml (frames, stride, side). Not of ViT-g/16 at 384",
    ),
    "dinov3": KnownEncoder(
        frames=16, stride=2, padding="none", fit="squeeze", resized=256, side=256, interpolation="antialiased",
        mean=IMAGENET[0], std=IMAGENET[1], widths=(384, 768, 1024, 1280, 4096), per_frame=True,
        weights_licence="DINOv3 License (LICENSE.md)",
        sources="github.com/facebookresearch/dinov3 at 6876159: README.md (make_transform of LVD-1689M weights), "
        "dinov3/hub/backbones.py (widths of ViT). An encoder of pictures: frames, stride and their mean are ours",
    ),
    "videomae": KnownEncoder(
        frames=16, stride=4, padding="last", fit="short side", resized=224, side=224, interpolation="linear",
        mean=IMAGENET[0], std=IMAGENET[1], widths=(384, 768, 1024, 1280),
        weights_licence="CC BY-NC 4.0 (LICENSE)",
        sources="github.com/MCG-NJU/VideoMAE at 14ef8d8: kinetics.py (validation: resized, side, mean, std, last frame "
        "again), scripts/kinetics/videomae_vit_base_patch16_224_tubemasking_ratio_0.9_epoch_1600/finetune.sh (frames, "
        "stride), modeling_finetune.py (widths)",
    ),
}  # fmt: skip
