"""Writes a simulated data set in the layout of a public dataset.

python -m tfds_builders.echo_phantom --layout echonet_dynamic --output DIR --train 600 --val 200 --test 400 --seed 0
"""

import argparse
import os

from discovr_jax import storage
from tfds_builders.echo_phantom import layouts


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tfds_builders.echo_phantom", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--layout", choices=layouts.LAYOUTS, default="echonet_dynamic", help="dataset whose files it makes"
    )
    parser.add_argument("--output", required=True, help="directory to make; continued if interrupted")
    parser.add_argument("--train", type=int, default=600, help="patients in the train split")
    parser.add_argument("--val", type=int, default=200, help="patients in the val split")
    parser.add_argument("--test", type=int, default=400, help="patients in the test split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    flags = parser.parse_args(storage.expand_home(arguments))
    counts = {"train": flags.train, "val": flags.val, "test": flags.test}
    try:
        print(layouts.write(flags.layout, flags.output, counts, flags.seed, flags.workers))
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
