"""The record of a screen recording: its ultrasound sector alone, on a black square."""

from discovr_jax.data import records
from discovr_jax.data.io.video import Video, at_constant_rate
from discovr_jax.data.letterbox import letterbox
from discovr_jax.data.read import read_video
from discovr_jax.data.sector import isolate_video
from tfds_builders import echo_builder


def read(clip: echo_builder.Clip, frame_size: int, dataset: str) -> dict:
    """Decodes the clip, leaves out all but the sector, and brings it to `frame_size`, flagged.

    Frame rate and spacing are the file's. Colour Doppler is flagged, not refused.

    Raises:
      VideoError: the file is missing, damaged, or no clip.
    """
    video = at_file_rate(clip)
    alone, flags = isolate_video(video)
    frames, placement = letterbox(alone.frames, frame_size, alone.pixel_size)
    if frames is not alone.frames:
        flags.add("resized")
    return records.make_record(
        frames, id=clip.id, patient_id=clip.patient_id, dataset=dataset, fps=video.fps,
        pixel_spacing=placement.spacing(alone.pixel_spacing), flags=sorted(flags), **clip.fields,
    )  # fmt: skip


def at_file_rate(clip: echo_builder.Clip) -> Video:
    """The whole picture, as the record's frames are numbered."""
    return at_constant_rate(clip.path, read_video(clip.path))
