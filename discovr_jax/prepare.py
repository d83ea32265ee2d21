"""Makes records from a downloaded dataset, and checks them.

python -m discovr_jax.prepare echonet_dynamic --manual_dir=DOWNLOAD --data_dir=RECORDS [--frame_size=112]
python -m discovr_jax.prepare check RECORDS/echonet_dynamic/112/1.0.0

What lies beside the records, and how fast it is: docs/data.md.
"""

import argparse
import contextlib
import dataclasses
import importlib
import os
import pathlib
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from discovr_jax import file_lock, storage
from discovr_jax.data import audit, bucket, mixture, records
from discovr_jax.errors import ConfigError
from discovr_jax.progress import Progress

_BUILDERS = pathlib.Path(__file__).resolve().parent.parent / "tfds_builders"


def datasets() -> list[str]:
    """Names of the datasets that have a builder.

    >>> "echonet_dynamic" in datasets()
    True
    """
    return sorted(path.parent.name for path in _BUILDERS.glob("*/*_dataset_builder.py"))


def build(
    dataset: str,
    manual_dir: str | os.PathLike,
    data_dir: str | os.PathLike,
    frame_size: int = 112,
    variant: str = "",
    max_bad: int = 0,
    workers: int | None = None,
    beam_options: Sequence[str] = (),
    **options,
) -> dict:
    """Builds the records of a dataset, unless they are there and whole, and contact_sheet.png beside them.

    Records appear only when they are complete: an interrupted build leaves nothing but a folder
    `incomplete.*`, which the next build removes. Damaged records are moved to `damaged.*` and built again.

    Args:
      dataset: one of `datasets()`.
      manual_dir: where the downloaded files lie.
      data_dir: records go to data_dir/dataset/config/version.
      frame_size: pixels, 112 or 224.
      variant: of the dataset, where it has several (a view); see `records.config_name`.
      max_bad: unusable videos that are tolerated and listed in quarantine.csv.
      workers: processes that read videos; None for one per core.
      beam_options: flags of Apache Beam's pipeline ("--runner=FlinkRunner", ...), whose workers then read the videos
        instead of this machine's processes; needs the extra "beam".
      **options: those that the dataset's builder names in OPTIONS.

    Returns:
      `audit.summarise` of the records.

    Raises:
      tfds_builders.tables.SourceError: the downloaded files are not usable; says which and why.
      ValueError: unknown dataset, frame size, variant or option; or records made with other options are there.

    >>> from tfds_builders.echo_phantom import layouts
    >>> native = layouts.write("echonet_dynamic", "native", {"train": 1, "val": 1, "test": 1}, seed=0, workers=1)
    >>> summary = build("echonet_dynamic", native, "data", workers=1)
    Making records in data/echonet_dynamic/112/1.0.0 (nothing is downloaded or sent)
    Records are complete: data/echonet_dynamic/112/1.0.0
    >>> summary["splits"]["train"]["records"]
    1
    """
    from tfds_builders import reading

    reading.leave_if_main_is_imported()
    config = records.config_name(frame_size, variant)
    cls = _builder_class(dataset, config, options)
    path = _folder(data_dir, dataset, config)
    with _exclusive(path):
        return _build(cls, path, manual_dir, max_bad, workers, beam_options, options)


def ensure_records(config) -> None:
    """Makes sure that the records of every dataset that a config names exist; simulates a phantom where it says so.

    With `config.data.simulate.{train, val, test}` above 0 missing records are made from the clips of that many
    simulated patients, written to `data_dir/native/DATASET` in the dataset's own layout.

    Raises:
      RecordsError: records are missing or damaged and not to be simulated (with the command that makes them),
        or data_dir holds other simulated clips.
    """
    for name in mixture.all_named(config):
        _ensure(config.data, name)


def simulated_videos(count: int, seed: int = 0) -> list[tuple[np.ndarray, float]]:
    """Simulated hearts to try things out on: uint8 [T, 112, 112] and frames per second of each."""
    from tfds_builders.echo_phantom.layout_echonet_dynamic import simulate_one

    clips = [simulate_one(seed, "test", number) for number in range(count)]
    return [(np.asarray(clip.frames), float(clip.fps)) for clip in clips]


def _folder(data_dir, dataset: str, config: str) -> pathlib.Path:
    if bucket.is_url(data_dir):
        raise records.RecordsError(
            f"Records are made in a folder, not at {data_dir}: give one, and copy it there when they are made "
            f"(gcloud storage rsync -r FOLDER {data_dir})."
        )
    return records.records_dir(data_dir, dataset, config)


def _ensure(data, name: str) -> None:
    dataset, _, _ = name.partition("/")
    counts = {split: data.simulate[split] for split in records.SPLITS if data.simulate[split]}
    if not counts:
        mixture.open_source(data, name, "train")
        return
    path = _folder(data.data_dir, dataset, mixture.config_name(data, name))
    from tfds_builders import reading
    from tfds_builders.echo_phantom import layouts

    reading.leave_if_main_is_imported()
    # All hosts of a job come here; the first to get the lock works, the others find the records.
    with _exclusive(path):
        native = pathlib.Path(data.data_dir).expanduser() / "native" / dataset
        if not _is_whole(path) or native.exists():
            # Where the clips exist this only checks that they are those that the config asks for.
            try:
                layouts.write(dataset, native, counts, data.simulate.seed, os.cpu_count() or 1)
            except FileExistsError as error:
                raise records.RecordsError(
                    f"data.simulate asks for other clips than data.data_dir = {data.data_dir} holds: {error}"
                ) from error
        if not _is_whole(path):
            options = layouts.BUILDER_OPTIONS.get(dataset, {})
            _build(_builder_class(dataset, path.parent.name), path, native, options=options)


def _builder_class(dataset: str, config: str | None = None, options: Iterable[str] = ()) -> type:
    """The builder of a dataset; ValueError if there is none, or it has no such config or options."""
    if dataset not in datasets():
        raise ConfigError(f"There is no dataset '{dataset}'; there are {', '.join(datasets())}.")
    cls = importlib.import_module(f"tfds_builders.{dataset}.{dataset}_dataset_builder").Builder
    configs = [known.name for known in cls.BUILDER_CONFIGS]
    if config is not None and config not in configs:
        raise ConfigError(f"{dataset} has no records '{config}' ([variant_]frame_size), only {', '.join(configs)}.")
    if unknown := sorted(set(options) - {option.name for option in cls.OPTIONS}):
        raise ValueError(f"{dataset} has no option {', '.join(unknown)}.")
    return cls


def _build(cls, path, manual_dir, max_bad=0, workers=None, beam_options=(), options=None) -> dict:
    import tensorflow_datasets as tfds

    from tfds_builders.tables import SourceError

    whole = _is_whole(path)
    manual_dir = pathlib.Path(manual_dir).expanduser()
    if not whole and not manual_dir.is_dir():
        raise SourceError(f"{manual_dir}: no such directory. {cls.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    if not whole and path.exists():
        aside = path.with_name(f"damaged.{time.time_ns()}.{path.name}")
        print(f"{path} is damaged; moved to {aside.name} and built again.", file=sys.stderr)
        path.rename(aside)
    tfds.disable_progress_bar()
    builder = cls(
        config=path.parent.name, data_dir=os.fspath(path.parents[2]), max_bad=max_bad, workers=workers,
        progress=Progress("videos"), **(options or {}),
    )  # fmt: skip
    if whole:
        if reason := builder.made_otherwise(audit.metadata(path), manual_dir):
            raise ValueError(f"{path} {reason}. Remove it, or choose another --data_dir.")
        print(f"{path} is already complete; remove it to build it again.", file=sys.stderr)
    else:
        if problem := storage.rename_problem(path.parent):
            raise SourceError(f"--data_dir: {problem}.")
        for leftover in path.parent.glob("incomplete.*"):
            shutil.rmtree(leftover)
        download = tfds.download.DownloadConfig(manual_dir=manual_dir)
        if beam_options:
            try:
                from apache_beam.options.pipeline_options import PipelineOptions
            except ImportError as error:
                raise ValueError(
                    "--beam_options needs Apache Beam: pip install -c constraints/beam.txt '.[beam]', "
                    "in an environment of its own."
                ) from error
            download = dataclasses.replace(download, beam_options=PipelineOptions(list(beam_options)))
        builder.download_and_prepare(download_config=download)
    return audit.summarise(path)


def _is_whole(path: pathlib.Path) -> bool:
    if not all((path / name).is_file() for name in ("metadata.json", "manifest.csv", "quarantine.csv")):
        return False
    try:
        return bool(audit.open_all(path))
    except records.RecordsError:
        return False


@contextlib.contextmanager
def _exclusive(path: pathlib.Path) -> Iterator[None]:
    """One process at a time builds the records at `path`; the kernel releases the lock of a killed one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.parent / ".lock", "w") as lock:
        try:
            file_lock.lock(lock, wait=False)
        except BlockingIOError:
            print(f"Waiting for another process that builds {path}.", file=sys.stderr)
            file_lock.lock(lock, wait=True)
        yield


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m discovr_jax.prepare",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="DATASET | check")
    for dataset in datasets():
        cls = _builder_class(dataset)
        configs = [config.name for config in cls.BUILDER_CONFIGS]
        command = commands.add_parser(dataset, help=f"make the records of {dataset}")
        command.add_argument("--manual_dir", required=True, help="folder of the downloaded files")
        command.add_argument("--data_dir", required=True, help="folder for records")
        command.add_argument("--frame_size", type=int, default=112, help="pixels of the stored frames")
        variants = sorted({records.split_config_name(name)[0] for name in configs})
        if variants != [""]:
            command.add_argument("--variant", choices=variants, required="" not in variants, default="")
        command.add_argument("--max_bad", type=int, default=0, help="unusable videos to tolerate and list")
        command.add_argument("--workers", type=int, help="processes that read videos (default: one per core)")
        command.add_argument(
            "--beam_options", type=shlex.split, default=[], metavar="'--runner=NAME ...'",
            help="read the videos by Apache Beam with these flags of its pipeline (docs/data.md)",
        )  # fmt: skip
        for option in cls.OPTIONS:
            kind = {"action": "store_true"} if option.type is bool else {"type": option.type}
            command.add_argument(f"--{option.name}", default=option.default, help=option.help, **kind)
    command = commands.add_parser("check", help="verify records")
    command.add_argument("directory", type=pathlib.Path, help="the folder that holds dataset_info.json")
    given = parser.parse_args(storage.expand_home(arguments))
    if given.command == "check":
        notes: list[str] = []
        problems = audit.check(given.directory, Progress("records"), lambda line: notes.append(f"note: {line}"))
        if not problems:
            summary = audit.summarise(given.directory)
            notes = [audit.format_summary(summary), *notes, *_gaps(summary)]
        print("\n".join([*notes, *problems]))
        print(f"{len(problems)} problem(s) found." if problems else "No problems found.")
        return 1 if problems else 0
    try:
        arguments = vars(given)
        summary = build(arguments.pop("command"), **arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join([audit.format_summary(summary), *_gaps(summary)]))
    return 0


def _gaps(summary: dict) -> list[str]:
    return [f"note: {line}" for line in audit.class_gaps(summary)]


if __name__ == "__main__":
    sys.exit(main())
