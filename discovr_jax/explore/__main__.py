"""A map of all videos in the browser: colour, filter, select; a click plays the clip. For research use only.

python -m discovr_jax.explore RUN_OR_PARQUET [--join=TABLE] [--input=DIR_OR_CSV] [--port=N]

RUN is a workdir that was evaluated: its test videos have predictions, its records give the clips. PARQUET is a table of
discovr_jax.extract; --join adds columns by id (a table of discovr_jax.predict, a CSV of labels), --input its clips.
The page is served to this machine alone, at the address that is printed; its token is a password for as long as the
command runs. To see it from another machine, forward the port: ssh -L 5006:127.0.0.1:5006 HOST, with --port=5006.
"""

import argparse
import importlib.util
import sys
import webbrowser

from discovr_jax import storage
from discovr_jax.explore import projection
from discovr_jax.explore.sources import open_videos
from discovr_jax.explore.videos import ExploreError
from discovr_jax.progress import doing


def main(argv: list[str] | None = None) -> int:
    """Serve until Ctrl-C; 1 with the reason on stderr if there is nothing to serve."""
    args = _parser().parse_args(storage.expand_home(argv))
    try:
        if importlib.util.find_spec("bokeh") is None:
            raise ExploreError("the page is drawn by Bokeh, which is not installed: pip install 'discovr_jax[explore]'")
        from discovr_jax.explore import page, server

        with doing("reading and placing the videos"):
            videos = open_videos(
                args.source, readout=args.readout, data_dir=args.data_dir, joined=args.join, files=args.input
            )
            places, axes = projection.project(videos.features, args.projection)
        running, address = server.start(page.Pages(videos, places, axes).add_to, args.port)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(videos)} videos of {videos.name} (Ctrl-C ends):\n{address}", flush=True)
    if args.browser:
        webbrowser.open(address)
    running.run_until_shutdown()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m discovr_jax.explore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", metavar="RUN_OR_PARQUET", help="workdir of a run, or table of discovr_jax.extract")
    add("--projection", default="pca", choices=projection.KINDS, help="to two axes (default: %(default)s)")
    add("--readout", default="", help="of a run: the pooled feature (default: what validation chose)")
    add("--data_dir", default="", help="of a run: its records, if they were moved")
    add("--join", action="append", metavar="TABLE", help="of a table: .parquet or .csv with a column id; may repeat")
    add("--input", default="", help="of a table: what was given to discovr_jax.extract as --input, for the clips")
    add("--port", type=int, default=0, help="of 127.0.0.1 (default: any that is free)")
    add("--browser", action="store_true", help="open the address; other users of this machine may see it then")
    return parser


if __name__ == "__main__":
    sys.exit(main())
