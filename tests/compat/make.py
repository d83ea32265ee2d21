"""Makes an archive of what this version writes: records, and the workdir of a run on them. Later versions must read it.

python -m tests.compat.make NAME     writes tests/compat/NAME.tar.xz and NAME.json (what must be read from it)

Run it when a version number rises (`versions`), under a new name, and keep the old archives: test_compat.py reads all.
"""

import hashlib
import json
import pathlib
import sys
import tarfile
import tempfile

import numpy as np

from discovr_jax import inference, train
from discovr_jax.configs import phantom
from discovr_jax.data import class_labels, records
from discovr_jax.evaluation import evaluate, runner
from discovr_jax.runs import checkpoint_meta, metrics_log
from tests import made_up, run_case

HERE = pathlib.Path(__file__).parent
DATASET = "made_up"
SMALL = run_case.TINY | run_case.TINY_HEADS | {
    "batch_size": 4, "duration": "2 steps", "log.every": "1 steps", "checkpoint.keep": 1,
    "data.simulate.train": 0, "data.simulate.val": 0, "data.simulate.test": 0,
    "data.dataset": DATASET, "data.abnormal_rule": "ef < 50", "data.image_size": 8, "data.num_frames": 2,
    "model.patch": 4, "model.width": 8, "model.decoder_width": 8, "model.num_prototypes": 8,
    "head.hidden": 8, "head.bottleneck": 8, "head.outputs": 8, "eval.readouts": ("cls", "mean"), "eval.resamples": 5,
    "mask.ratio": 0.5, "mask.image_ratio": 0.5, "phase.frames": 2,
}  # fmt: skip


def versions() -> dict[str, int]:
    """Of everything that has one."""
    return {
        "checkpoint": checkpoint_meta.FORMAT_VERSION,
        "records": records.SCHEMA_VERSION,
        "metrics": metrics_log.METRICS_VERSION,
        "results": runner.SCHEMA_VERSION,
    }


def clips() -> list:
    """Six, four and four, healthy and ill in turn; of two views and three grades."""
    sizes = {"train": 6, "val": 4, "test": 4}
    return [
        made_up.clip(
            f"{split}{number}", split, ef=60.0 - 20 * (number % 2),
            classes=class_labels.encode({
                "view": "A4C" if number % 2 else "A2C", "grade": {"grade": number % 3, "name": f"{number % 3}+"}
            }),
        )
        for split, count in sizes.items()
        for number in range(count)
    ]


def read_records(data_dir: pathlib.Path) -> dict[str, list]:
    """{split: [id, ef, hash of the frames, masks, view, and classes where there are] of each record}, sorted."""
    found = {}
    for split in records.SPLITS:
        source = records.open_source(data_dir, DATASET, "112", split)
        found[split] = []
        for index in range(len(source)):
            record = source[index]
            frames = records.decode_frames(record["frames"], 112, 112)
            row = [record["id"], record["ef"], records.content_hash(frames), int(record["masks"].sum()), record["view"]]
            found[split].append(row + ([record["classes"]] if record["classes"] else []))
        found[split].sort()
    return found


def features(run: pathlib.Path) -> list[float]:
    """Of one clip, by the run's encoder."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8), np.uint8)
    return np.asarray(inference.load_encoder(str(run)).embed(frames), np.float64).tolist()


def main() -> None:
    name = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        made_up.build(root / "data", clips())
        config = phantom.get_config("smoke").lock()
        config.update_from_flattened_dict(SMALL | {"data.data_dir": str(root / "data")})
        train.train_and_evaluate(config, str(root / "run"), evaluate.evaluate_state)
        row = metrics_log.read_metrics(root / "run")[-1]
        expected = {"versions": versions(), "records": read_records(root / "data"), "features": features(root / "run")}
        expected |= {"state_sha256": row["state_sha256"], "step": row["step"]}
        (HERE / f"{name}.json").write_text(json.dumps(expected, indent=1) + "\n")
        left_out = ("report.html", "events.", "lock", "contact_sheet")
        with tarfile.open(HERE / f"{name}.tar.xz", "w:xz") as archive:
            for path in sorted(path for path in root.rglob("*") if path.is_file()):
                if not path.name.startswith(left_out) and path.parent.name != "features":
                    archive.add(path, path.relative_to(root))
    content = (HERE / f"{name}.tar.xz").read_bytes()
    print(f"{name}.tar.xz: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
