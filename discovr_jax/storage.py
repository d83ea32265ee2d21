"""Folders as users name them, and what they must be able to do."""

import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence


def expand_home(arguments: Sequence[str] | None) -> list[str]:
    """Arguments of a command (None: of this one) with "~/" as the home folder wherever a path can begin.

    A shell expands it at the start of a word only, so not in --workdir=~/runs.
    """
    home = os.path.expanduser("~")
    given = sys.argv[1:] if arguments is None else arguments
    return [re.sub(r"(^|[=,+])~(?=/|$)", lambda before: before[1] + home, argument) for argument in given]


def rename_problem(folder: str | os.PathLike) -> str:
    """Why whole folders cannot be renamed below `folder`, with what to do; empty if they can be.

    Checkpoints and records are written under another name and renamed when they are whole. gcsfuse does not rename
    folders of a flat bucket unless it is told to, and says so only then, with "too many open files".
    """
    probe = pathlib.Path(tempfile.mkdtemp(dir=folder, prefix=".rename_probe."))
    renamed = probe.with_name(f"{probe.name}.renamed")
    try:
        (probe / "inside").mkdir()
        (probe / "inside" / "file").touch()
        os.rename(probe, renamed)
        return ""
    except OSError as error:
        return (
            f"{folder}: folders cannot be renamed there ({error.strerror}), which what is written needs when it is "
            "whole. For a bucket: mount it with gcsfuse --rename-dir-limit=100000, or use one with a hierarchical "
            "namespace; or write to a disk and copy it to the bucket afterwards (gcloud storage rsync -r)"
        )
    finally:
        for path in (probe, renamed):
            shutil.rmtree(path, ignore_errors=True)
