"""What predicts, as a DICOM object names it: equipment of its series, and algorithm of its content."""

import dataclasses
from collections.abc import Mapping
from typing import Any

MANUFACTURER, MODEL = "discovr_jax", "Heads on a frozen video encoder"
DESCRIPTION = "discovr_jax predictions, for research use only"


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """What predicts.

    Attributes:
      version: of this package; sha256: of the encoder's weights.
      parameters: {name: value} of what else decides a prediction.
      abnormal: the rule that makes a training video abnormal.
      interval: how the prediction intervals were made.
    """

    version: str
    sha256: str
    parameters: Mapping[str, str]
    abnormal: str
    interval: str

    @classmethod
    def of(cls, encoder) -> "Algorithm":
        """Of an `inference.VideoEncoder` with heads."""
        about = encoder.predictor.heads.about
        counts = {head["interval"]["validation_videos"] for head in about["heads"].values() if "interval" in head}
        return cls(
            version=encoder.card()["package"].removeprefix("discovr_jax "),
            sha256=encoder.weights_sha256,
            parameters={"heads_fitted_on": str(about["dataset"]), "checkpoint_step": str(about["step"])},
            abnormal=str(about["label_rule"]),
            interval="90 % prediction interval, split conformal, from the errors on "
            f"{' or '.join(map(str, sorted(counts))) or 'no'} validation videos",
        )

    @property
    def settings(self) -> dict[str, str]:
        """What a prediction depends on."""
        return {"weights_sha256": self.sha256, **self.parameters}

    def equipment(self) -> dict[str, Any]:
        """Arguments of highdicom's constructors that all objects share."""
        return {
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": MODEL,
            "software_versions": self.version,
            "device_serial_number": self.sha256[:16],
            "series_description": DESCRIPTION,
            "content_qualification": "RESEARCH",
            "specific_character_set": "ISO_IR 192",
            "instance_number": 1,
        }
