"""The table of loss terms.

A new term is a function in a file of its own, a line here, and its weight in `config.loss` (and, if it has options, a
section of its own) in configs/base.py. Everything else follows from the table: which branches of the network are built
and computed, what is logged and printed as `loss/NAME`, and the curve in the report.
"""

import dataclasses
from collections.abc import Callable, Iterable

from discovr_jax.losses import amplitude, dino, jepa, phase, pixel, scd
from discovr_jax.losses.interface import Result


@dataclasses.dataclass(frozen=True)
class Term:
    """One term of the objective.

    Attributes:
      name: key of its weight in `config.loss`; its value is logged as `loss/NAME`.
      function: `(losses.interface.LossInputs, **options of its section) -> losses.interface.Result`.
      needs: outputs of the model that it reads, of `models.discovr.OUTPUTS`; a weight of 0 leaves them uncomputed.
      label: what the report calls it.
      section: section of the config that holds the options of this term alone; "" for none.
    """

    name: str
    function: Callable[..., Result]
    needs: frozenset[str]
    label: str
    section: str = ""


_ALL = (
    Term("vid", dino.video_term, frozenset({"video_logits"}), "video distillation"),
    Term("img", dino.image_term, frozenset({"image_logits"}), "image distillation"),
    Term("scd", scd.term, frozenset({"decoded", "image_tokens", "prototypes"}), "semantic clusters"),
    Term("pix", pixel.term, frozenset({"decoded", "pixels"}), "pixels"),
    Term("jepa", jepa.term, frozenset({"embeddings"}), "LeJEPA", section="jepa"),
    Term("phase", phase.term, frozenset({"frame_embeddings"}), "phase of the beat", section="phase"),
    Term("amplitude", amplitude.term, frozenset({"frame_amplitudes"}), "amplitude of the beat"),
)
TERMS = {term.name: term for term in _ALL}


def outputs(names: Iterable[str]) -> frozenset[str]:
    """Outputs that the model must give for these terms.

    >>> sorted(outputs(["pix"]))
    ['decoded', 'pixels']
    """
    return frozenset().union(*(TERMS[name].needs for name in names))
