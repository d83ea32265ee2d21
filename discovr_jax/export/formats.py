"""The formats of an exported program: how each is written and loaded again, without this package's model.

stablehlo: by `jax.export`; to be run with JAX alone.
onnx: by jax2onnx; to be run with onnxruntime.
"""

import dataclasses
import importlib.metadata
import importlib.util
import logging
import pathlib
from collections.abc import Callable, Mapping

import jax
import numpy as np

from discovr_jax.errors import ConfigError
from discovr_jax.export.program import CLIPS, Program

Loaded = Callable[[np.ndarray, np.ndarray], Mapping[str, np.ndarray]]
PLATFORMS = ("cpu", "cuda", "tpu")  # of StableHLO
OPSET = 18  # of ONNX: onnxruntime 1.14 and later
ONE_FILE = 1_900_000_000  # bytes of weights; a Protobuf message holds 2 GiB, so more go to a file beside it


@dataclasses.dataclass(frozen=True)
class Format:
    """A format by its functions.

    Attributes:
      file: name of what is written; packages: what writing and loading need besides JAX.
      write: (program, path); load: path -> (frames, num_valid) -> {output: array}.
      says: of what the file is, and what runs it.
    """

    file: str
    packages: tuple[str, ...]
    write: Callable[[Program, pathlib.Path], None]
    load: Callable[[pathlib.Path], Loaded]
    says: Callable[[], str]


def write_stablehlo(program: Program, path: pathlib.Path) -> None:
    """As `jax.export` serialises it, for any number of clips."""
    from jax import export

    (clips,) = export.symbolic_shape(CLIPS)
    exported = export.export(jax.jit(program.__call__), platforms=PLATFORMS)(*program.specs(clips))
    path.write_bytes(exported.serialize())


def load_stablehlo(path: pathlib.Path) -> Loaded:
    """The program of a file of `write_stablehlo`."""
    from jax import export

    call = export.deserialize(bytearray(path.read_bytes())).call
    return lambda frames, num_valid: {name: np.asarray(each) for name, each in call(frames, num_valid).items()}


def write_onnx(program: Program, path: pathlib.Path) -> None:
    """As jax2onnx converts it, for any number of clips."""
    import jax2onnx
    from jax import export

    (clips,) = export.symbolic_shape(CLIPS)
    names = list(program.outputs)
    # It misses the types of constants that the file does not name: a line for each.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)

    def run(*inputs):
        outputs = program(*inputs)
        return tuple(outputs[name] for name in names)

    jax2onnx.to_onnx(
        run,
        program.specs(clips),
        model_name="discovr_jax",
        opset=OPSET,
        return_mode="file",
        output_path=path,
        input_names=list(program.inputs),
        output_names=names,
        export_mode="web" if program.nbytes < ONE_FILE else "standard",
    )


def load_onnx(path: pathlib.Path) -> Loaded:
    """The program of a file of `write_onnx`, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]

    def run(frames: np.ndarray, num_valid: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {"frames": frames, "num_valid": num_valid}), strict=True))

    return run


def _says_stablehlo() -> str:
    return f"StableHLO of jax.export, jax {jax.__version__}, for {', '.join(PLATFORMS)}"


def _says_onnx() -> str:
    converter, runtime = (importlib.metadata.version(name) for name in ("jax2onnx", "onnxruntime"))
    return f"ONNX opset {OPSET} of jax2onnx {converter}, loaded with onnxruntime {runtime}"


FORMATS = {
    "stablehlo": Format("encoder.stablehlo", (), write_stablehlo, load_stablehlo, _says_stablehlo),
    "onnx": Format("encoder.onnx", ("jax2onnx", "onnxruntime"), write_onnx, load_onnx, _says_onnx),
}


def choose(name: str) -> Format:
    """A format by its name, of `FORMATS`.

    Raises:
      ConfigError: there is none of that name, or a package is missing.
    """
    if name not in FORMATS:
        raise ConfigError(f"--format must be one of {', '.join(FORMATS)}, not {name!r}")
    missing = [each for each in FORMATS[name].packages if importlib.util.find_spec(each) is None]
    if missing:
        raise ConfigError(
            f"--format={name} needs {' and '.join(missing)}, which is not installed: pip install "
            "'discovr_jax[export]', in an environment of its own (docs/how-to/export.md says why); --format=stablehlo "
            "needs nothing more"
        )
    return FORMATS[name]
