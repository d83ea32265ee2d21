"""Writes an exported program with its card, and checks what was written."""

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from discovr_jax.convert import folder
from discovr_jax.evaluation.fitted_heads import RESEARCH_USE
from discovr_jax.export import check as check_lib
from discovr_jax.export import formats
from discovr_jax.export.program import Program
from discovr_jax.inference import VideoEncoder, load_encoder
from discovr_jax.predictor import Predictor

CARD, CHECK = "card.json", "check.npz"
_OF_HEADS = ("step", "dataset", "label_rule")  # what the card says of them
_OF_CLIPS = ("num_frames", "stride", "trained_fps", "clips", "frame_size", "image_size", "fit", "input_normalisation")


def export(
    workdir: str | os.PathLike,
    output: str | os.PathLike,
    format: str = "onnx",
    *,
    check: Sequence[str | os.PathLike] = (),
    show_out_of_distribution: bool = False,
) -> dict[str, Any]:
    """Write the program of a run's newest checkpoint, whole and checked or not at all.

    Args:
      workdir: as of `load_encoder`; heads come along where its evaluation kept them.
      output: folder to write; must not exist.
      format: one of `formats.FORMATS`.
      check: video files to compare on, besides simulated ones; nothing of them is written.
      show_out_of_distribution: numbers of videos unlike those of training too, which are NaN otherwise.

    Returns:
      The card.

    Raises:
      ConfigError: no such format, or a package is missing.
      ConversionError: something is at `output`.
      HeadsError: the heads are of other weights.
      ExportError: the program does not compute what the encoder computes.
      CheckpointError, VideoError: what is to be read cannot be.

    >>> card = export("runs/adult", "adult_stablehlo", "stablehlo")
    >>> sorted(card["inputs"]), card["outputs"]["features"]["dtype"]
    (['frames', 'num_valid'], 'float32')
    """
    how = formats.choose(format)
    folder.check_free(output)
    encoder, predictor, fitted_in = _load(workdir)
    videos = [*check_lib.simulated(encoder), *(check_lib.of_file(path, encoder) for path in check)]
    wanted = [check_lib.expected(encoder, predictor, video, show_out_of_distribution) for video in videos]
    program = Program(encoder, predictor, show_out_of_distribution)
    with folder.whole(output) as temporary:
        path = temporary / how.file
        how.write(program, path)
        apart = check_lib.differences(how.load(path), list(program.outputs), encoder, videos, wanted)
        worst = max(apart, key=lambda name: apart[name].scaled)
        if apart[worst].scaled > check_lib.TOLERANCE:
            raise check_lib.ExportError(
                f"the {format} program differs from the encoder by {apart[worst].absolute:.3g} in {worst} (at most "
                f"{check_lib.TOLERANCE:g}, of values above 1 in relation to them): nothing was written; another "
                "--format may do, and please report it"
            )
        frames, num_valid = videos[0].clips(encoder)
        np.savez_compressed(
            temporary / CHECK, frames=frames, num_valid=num_valid, **{n: wanted[0][n] for n in program.outputs}
        )
        checked = {
            "simulated_videos": len(videos) - len(check), "videos_of_yours": len(check),
            "in_distribution": sum(not one.get("out_of_distribution", False) for one in wanted),
            "largest_difference": {name: each._asdict() for name, each in apart.items()},
            "at_most": check_lib.TOLERANCE,
        }  # fmt: skip
        files = {
            each.name: {"bytes": each.stat().st_size, "sha256": _sha256(each)} for each in sorted(temporary.iterdir())
        }
        card = _card(encoder, predictor, program, fitted_in) | {
            "format": how.says(), "files": files, "checked": checked,
        }  # fmt: skip
        (temporary / CARD).write_text(json.dumps(card, indent=1, allow_nan=False) + "\n")
    return card


def _load(workdir) -> tuple[VideoEncoder, Predictor | None, str]:
    """The encoder in float32, its heads where there are any, and the dtype of activations that these were fitted on.

    bfloat16 rounds otherwise in each runtime, and onnxruntime has few of its operations on a CPU.
    """
    encoder = load_encoder(workdir)
    has_heads = encoder.heads is not None and encoder.heads.is_file()
    predictor, fitted_in = encoder.predictor if has_heads else None, encoder.options["dtype"]
    if fitted_in != "float32":
        encoder = load_encoder(workdir, dtype="float32")
        predictor = predictor and Predictor(encoder, predictor.heads, predictor.params)
    return encoder, predictor, fitted_in


def _card(encoder: VideoEncoder, predictor: Predictor | None, program: Program, fitted_in: str) -> dict[str, Any]:
    """What somebody needs to run the program, as JSON values."""
    about = encoder.card()
    heads: dict[str, Any] | str = "none: the run holds no evaluation with heads; the encoder alone"
    if predictor is not None:
        heads = {name: predictor.heads.about[name] for name in _OF_HEADS} | {"fitted_on_activations_in": fitted_in}
    return {
        "notice": RESEARCH_USE,
        "package": about["package"],
        "weights_sha256": predictor.heads.about["weights_sha256"] if predictor else about["weights_sha256"],
        "heads": heads,
        "inputs": {name: vars(each) for name, each in program.inputs.items()},
        "outputs": {name: vars(each) for name, each in program.outputs.items()},
        "preprocessing": {"steps": _steps(encoder.options)} | {name: encoder.options[name] for name in _OF_CLIPS},
    }


def _steps(o: dict[str, Any]) -> list[str]:
    """How clips are made, in words."""
    fps = o["trained_fps"]
    strided = f"every {o['stride']}th frame"
    times = strided if fps is None else f"{fps:g} frames per second (of unknown rate: {strided})"
    same = "" if o["frame_size"] == o["image_size"] else f", then resized to {o['image_size']} x {o['image_size']}"
    return [
        "B-mode without colour Doppler, moving; grey levels 0 to 255 (luma of RGB), full range",
        "the sector alone: what is burnt in outside it is black (discovr_jax.data.sector.isolate_video)",
        f"{o['clips']} clips of {o['num_frames']} frames, {times}, rounded to whole frames (halves up); starts spread "
        "evenly from the first frame to the last possible one (one clip: in the middle)",
        "a video shorter than a clip repeats its last frame; num_valid counts those that are real",
        f"letterboxed to {o['frame_size']} x {o['frame_size']}: square pixels, aspect ratio kept, centred on black, "
        f"area interpolation when shrinking and bilinear when enlarging{same}",
        "no normalisation: the program takes grey levels",
    ]


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
