"""The start of training on very many records: seconds and memory until the first batch.

The records are made up: two small frames each, all the same, under names of their own in the manifest. What a start
reads of a record does not depend on its frames.
"""

import argparse
import csv
import io
import json
import multiprocessing
import os
import pathlib
import resource
import tempfile
import time

import numpy as np

from discovr_jax.benchmark import loader, machine
from discovr_jax.configs import base
from discovr_jax.data import manifest, mixture, pipeline, records, training_videos

HELP = "seconds and memory from opening very many records to the first batch"
DATASET, SIDE = "echonet_dynamic", 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=int, default=1_000_000, help="records to make up")
    parser.add_argument("--shards", type=int, default=1024, help="files that they lie in")
    parser.add_argument("--workers", type=int, default=2, help="loader processes")
    parser.add_argument("--folder", help="where to make them, and to find them again; a temporary one if not given")


def run(given: argparse.Namespace) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(given.folder or temporary)
        if not records.records_dir(folder, DATASET, str(SIDE)).exists():
            # In a process of its own, so that its memory is not counted.
            arguments = (folder, given.records, given.shards)
            making = multiprocessing.get_context("spawn").Process(target=make, args=arguments)
            making.start()
            making.join()
            if making.exitcode:
                raise ValueError(f"the records could not be made in {folder}")
        print(machine.description())
        print(f"{given.records} records in {given.shards} files\n")
        header = ("up to here", "s", "processor s", "peak MB of the process", "MB per worker")
        print(machine.table(header, start(folder, given.workers)))


def start(folder: pathlib.Path, workers: int) -> list[tuple[str, str, str, str, str]]:
    """What training does from its records to its first batch; rows of the table."""
    config = base.get_config()
    config.update({"batch_size": 8})
    config.data.update(
        {"data_dir": str(folder), "dataset": DATASET, "frame_size": SIDE, "image_size": SIDE, "num_frames": 1}
    )
    config.data.update({"train_filter": "normal", "workers": workers, "crop": "uniform"})
    rows, begun, used = [], time.perf_counter(), time.process_time()

    def passed(what: str, each: str = "") -> None:
        seconds, processor = time.perf_counter() - begun, time.process_time() - used
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        rows.append((what, f"{seconds:.1f}", f"{processor:.1f}", f"{peak / 1e6:.0f}", each))

    passed("imports")
    sources = mixture.open_training(config.data)
    passed("records opened")
    chosen = pipeline.training_records(sources, config.data)
    passed("records chosen")
    training_videos.to_json(training_videos.hashed(sources, chosen))
    passed("training videos hashed")
    with pipeline.train_batches(sources, config) as batches:
        next(batches)
        sizes = [loader.own_memory(child.pid) for child in multiprocessing.active_children() if child.pid]
        passed("first batch", f"{np.mean(sizes) / 1e6:.0f}" if sizes else "")
    return rows


def make(folder: pathlib.Path, count: int, shards: int) -> None:
    """Writes `count` records of the training split, as a builder would."""
    from array_record.python import array_record_module

    final = records.records_dir(folder, DATASET, str(SIDE))
    part = final.with_suffix(".part")
    part.mkdir(parents=True)
    schema = records.features(SIDE)
    schema.save_config(part)
    frames = np.zeros((2, SIDE, SIDE), np.uint8)
    record = records.make_record(frames, id="0", patient_id="0", ef=60.0, fps=50.0, view="A4C", dataset=DATASET)
    data = schema.serialize_example(schema.encode_example(record))
    lengths = [len(part) for part in np.array_split(np.arange(count), shards)]
    for number, length in enumerate(lengths):
        path = part / f"{DATASET}-train.array_record-{number:05d}-of-{shards:05d}"
        writer = array_record_module.ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
        for _ in range(length):
            writer.write(data)
        writer.close()
    fields = {name: record.get(name) for name in manifest.MANIFEST} | {"num_masks": 0, "flags": "", "split": "train"}
    with (part / manifest.FILE).open("w", encoding="utf-8", newline="") as file:
        # Names are put into one line's text: a million calls of csv take longer than the start.
        text = io.StringIO()
        fields |= {"id": "ID", "patient_id": "PATIENT", "sha256": "SHA"}
        csv.DictWriter(text, manifest.MANIFEST).writerow(fields)
        line = text.getvalue()
        file.write(",".join(manifest.MANIFEST) + "\r\n")
        for number in range(count):
            name, digest = f"V{number:019d}", f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" * 4
            file.write(line.replace("SHA", digest, 1).replace("ID", name, 1).replace("PATIENT", name[:-1], 1))
    split = {
        "name": "train", "numBytes": str(count * len(data)), "shardLengths": [str(length) for length in lengths],
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }  # fmt: skip
    about = {"name": DATASET, "version": records.BUILDER_VERSION, "fileFormat": "array_record", "splits": [split]}
    (part / "dataset_info.json").write_text(json.dumps(about | {"configName": str(SIDE)}))
    (part / "metadata.json").write_text(json.dumps({"manifest_sha256": manifest.sha256(part)}))
    part.rename(final)
