"""Share an encoder on the Hugging Face Hub: `slim`'s copy of a run, with a model card, as one commit.

python -m discovr_jax.push --workdir=RUN --repo=OWNER/NAME --licence=ID --data=TEXT [--with_heads] [--public]
python -m discovr_jax.push ... --dry_run=DIR    # writes what would be sent, and opens no connection

Repositories are private unless --public. The card (README.md) holds the figures of results.json with their intervals
and baselines. Read it first: whether weights of your data may be shared is yours to decide, and nothing here knows.
"""

import argparse
import json
import os
import pathlib
import re
import sys
import tempfile

from discovr_jax import hub, model_card, pretrained, slim, storage
from discovr_jax.convert import folder as folders
from discovr_jax.evaluation import results_io, scored
from discovr_jax.progress import doing
from discovr_jax.runs import checkpoint

CARD = "README.md"
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")


def write(
    workdir: str | os.PathLike,
    output: str | os.PathLike,
    repository: str,
    *,
    licence: str,
    data: str,
    heads: bool = False,
) -> pathlib.Path:
    """Write the folder that is sent, whole or not at all: `slim.write`'s, and the card.

    Args:
      workdir: of a run, a converted checkpoint, or "phantom".
      repository: OWNER/NAME, for the card.
      licence, data: see `model_card.text`.
      heads: whether the fitted heads come along; they hold the features and ids of the training videos.

    Raises:
      ValueError: a name or a licence of another form, nothing said of the data, or something is at `output`.
      CheckpointError: the run has no checkpoint.
    """
    if not hub.REPOSITORY.fullmatch(repository):
        raise ValueError(f"--repo={repository}: give OWNER/NAME")
    if not _LICENCE.fullmatch(licence):
        raise ValueError(f"--licence={licence}: give the Hub's identifier, such as cc-by-nc-4.0, apache-2.0 or other")
    if not data.strip():
        raise ValueError("--data is empty: say what the encoder was trained on, and under which terms")
    with folders.whole(output) as temporary:
        slim.write(pretrained.path_of(workdir), temporary, heads=heads)
        config = json.loads((temporary / "config.json").read_bytes())
        evaluated = scored.find(temporary)
        results = json.loads(evaluated.path.read_bytes()) if evaluated else None
        held = bool(evaluated and evaluated.heads.is_file())
        card = model_card.text(repository, config, results, licence=licence, data=data, heads=held)
        results_io.write_text(temporary / CARD, card)
    return pathlib.Path(output)


@doing("writing the folder that is sent")
def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 if the folder was sent or written, 1 with the reason on stderr if not."""
    parser = argparse.ArgumentParser(
        prog="python -m discovr_jax.push", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--workdir", required=True, help="of a run; its newest checkpoint is shared")
    add("--repo", required=True, metavar="OWNER/NAME", help="repository; made if it is not there")
    add("--licence", required=True, metavar="ID", help="of the weights, as the Hub names it: cc-by-nc-4.0, other, ...")
    add("--data", required=True, metavar="TEXT", help="for the card: what it was trained on, under which terms")
    add("--with_heads", action="store_true", help="with the heads, which hold features and ids of all training videos")
    add("--public", action="store_true", help="for everybody to see; otherwise the repository is private")
    add("--dry_run", metavar="DIR", help="write the folder there instead; must not exist")
    args = parser.parse_args(storage.expand_home(argv))
    try:
        with tempfile.TemporaryDirectory(prefix="discovr_push.") as temporary:
            output = args.dry_run or pathlib.Path(temporary) / "folder"
            about = {"licence": args.licence, "data": args.data, "heads": args.with_heads}
            folder = write(args.workdir, output, args.repo, **about)
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                print(f"{path.stat().st_size:12,} {path.relative_to(folder).as_posix()}")
            if args.dry_run:
                print(f"nothing was sent; read {folder / CARD} before it is")
            else:
                print(f"sent: {hub.upload(folder, args.repo, public=args.public)}")
    except (ValueError, checkpoint.CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
