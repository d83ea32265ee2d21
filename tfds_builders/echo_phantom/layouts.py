"""Writes simulated clips in the native layout of a dataset.

DIRECTORY/
  ...                as the dataset ships it; see the layout's module
  attributes.csv     ours: what was drawn for each clip
  .truth/NAME.npz    ours: exact masks [N, H, W] (0 background, 1 LV cavity, 2 myocardium, 3 left atrium) of the
                     0-based frames mask_frames [N], in the pixels of the file, and what else a layout knows
  phantom.json       ours: what was asked for

A layout's module offers
  SIMULATOR_VERSION             raised when its output changes: what another version began is not continued
  jobs(counts, seed)            one `files.Job` a clip; `counts` are patients
  write_clip(directory, job)    writes a clip's files; returns its rows of the tables (JSON), "attributes" among them
  write_tables(directory, rows) writes the tables from the rows of all clips
"""

import concurrent.futures
import json
import shutil
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from discovr_jax.progress import Progress, to_stderr
from tfds_builders import reading
from tfds_builders.echo_phantom import (
    files,
    layout_camus,
    layout_cardiacnet,
    layout_echo_folder,
    layout_echonet_dynamic,
    layout_echonet_lvh,
    layout_echonet_pediatric,
    layout_hmc_qu,
    layout_mimic_iv_echo,
    layout_rvenet,
    layout_segrwma,
    layout_tmed2,
)
from tfds_builders.tables import SourceError

LAYOUTS = {
    "echonet_dynamic": layout_echonet_dynamic,
    "echonet_pediatric": layout_echonet_pediatric,
    "echonet_lvh": layout_echonet_lvh,
    "rvenet": layout_rvenet,
    "camus": layout_camus,
    "echo_folder": layout_echo_folder,
    "tmed2": layout_tmed2,
    "mimic_iv_echo": layout_mimic_iv_echo,
    "hmc_qu": layout_hmc_qu,
    "segrwma": layout_segrwma,
    "cardiacnet": layout_cardiacnet,
}
# What a dataset's builder must be told to read these files.
BUILDER_OPTIONS = {
    "echo_folder": {"csv": "labels.csv", "show_paths": True},
    "hmc_qu": {"split": "hmcqu_split.csv"},
    "segrwma": {"split": "segrwma_split.csv"},
    "cardiacnet": {"split": "cardiacnet_pah_split.csv"},
}


def write(
    layout: str,
    directory: str | Path,
    counts: dict[str, int],
    seed: int = 0,
    workers: int = 2,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Simulates and writes a data set; a directory that is already complete is left as it is.

    Work goes into `DIRECTORY.partial`, where an interrupted call is continued, and is renamed when whole.

    Args:
      layout: of `LAYOUTS`, named as the dataset.
      directory: where to write; must not exist, or be the finished result of the same arguments.
      counts: patients per split, keys among train, val, test.
      seed: of everything.
      workers: processes; 1 works in this one.
      report: takes a line of progress now and then; default writes to stderr.

    Returns:
      The directory.

    Raises:
      ValueError: unknown layout or split, negative or no counts.
      FileExistsError: the directory, or the partial one, holds something else.
      tables.SourceError: no process came up, or one was killed.

    >>> native = write("camus", "camus_native", {"train": 1}, seed=0, workers=1)
    >>> sorted(path.name for path in native.iterdir() if path.is_dir() and not path.name.startswith("."))
    ['database_nifti', 'database_split']
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}: one of {', '.join(LAYOUTS)}")
    directory = Path(directory)
    unknown = sorted(set(counts) - set(files.SPLITS))
    if unknown or any(count < 0 for count in counts.values()) or not sum(counts.values()):
        raise ValueError(f"counts must give patients for splits among {files.SPLITS}, some above 0; got {counts}")
    module = LAYOUTS[layout]
    recipe = {
        "simulator_version": module.SIMULATOR_VERSION,
        "seed": seed,
        "counts": {split: counts.get(split, 0) for split in files.SPLITS},
    }
    if layout != "echonet_dynamic":  # the first layout; folders of the time when it was the only one remain valid
        recipe["layout"] = layout
    if directory.exists():
        _check_recipe(directory, recipe)
        return directory
    partial = directory.with_name(directory.name + ".partial")
    if partial.exists():
        _check_recipe(partial, recipe)
    (partial / "clips").mkdir(parents=True, exist_ok=True)
    (partial / "phantom.json").write_text(json.dumps(recipe, indent=2) + "\n")
    jobs = module.jobs(recipe["counts"], seed)
    waiting = [(layout, str(partial), job) for job in jobs if not _row_file(partial, job).exists()]
    _run(waiting, workers, report or to_stderr)
    rows = [json.loads(_row_file(partial, job).read_text()) for job in jobs]
    module.write_tables(partial, rows)
    files.write_attributes(partial, rows)
    shutil.rmtree(partial / "clips")
    partial.rename(directory)
    return directory


def _check_recipe(directory: Path, recipe: dict) -> None:
    found = directory / "phantom.json"
    if not found.exists():
        raise FileExistsError(f"{directory} exists and holds no phantom.json: choose another --output")
    if json.loads(found.read_text()) != recipe:
        raise FileExistsError(
            f"{directory} holds other simulated clips ({found.read_text()}, wanted {recipe}): "
            "remove it or choose another --output"
        )


def _row_file(directory: Path, job: files.Job) -> Path:
    return directory / "clips" / files.file_name(job.name, ".json")


def _run(tasks: list, workers: int, report: Callable[[str], None]) -> None:
    progress = Progress("simulated clips", len(tasks), report)
    pool, done = None, map(_write_clip, tasks)
    if workers > 1 and tasks:
        pool, up = reading.start_pool(min(workers, len(tasks)))
        running = [pool.submit(_write_clip, task) for task in tasks]
        done = map(concurrent.futures.Future.result, concurrent.futures.as_completed(running))
    try:
        for _ in done:
            progress.add()
    except BrokenProcessPool:
        killed = "A process that simulated videos was killed; the same command goes on."
        raise SourceError(killed if up.is_set() else f"{reading.NONE_CAME_UP}.") from None
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _write_clip(task: tuple[str, str, files.Job]) -> None:
    """Writes one clip's files, then its rows: the rows say that the files are whole."""
    layout, directory, job = task
    row = LAYOUTS[layout].write_clip(Path(directory), job)
    path = _row_file(Path(directory), job)
    path.with_suffix(".tmp").write_text(json.dumps(row))
    path.with_suffix(".tmp").rename(path)
