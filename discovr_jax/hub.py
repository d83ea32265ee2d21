"""Encoders on the Hugging Face Hub: fetched for `load_encoder("hf:OWNER/NAME")`, and sent by `push`.

The only module that opens a connection, and only where "hf:" or `push` is asked for. A repository is a folder of
`slim` with a model card (README.md). What is fetched is safetensors and JSON, never a pickle.
"""

import contextlib
import fnmatch
import hashlib
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from discovr_jax.runs import weights_file

PREFIX = "hf:"
WEIGHTS = f"checkpoints/step_*/{weights_file.NAME}"
FILES = (WEIGHTS, "eval/*/results.json", "eval/*/heads.safetensors")  # what is fetched; "*" matches "/" too
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_LOG_IN = "log in first (`hf auth login`, or the environment variable HF_TOKEN)"
_HIDDEN = f" does not exist, or is private: check the name; to read a private one, or to push, {_LOG_IN}"


class HubError(ValueError):
    """The Hub, or what lies there, cannot be used; the message says which repository, why, and what to do."""


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path names a repository of the Hub.

    >>> is_remote("hf:heart-lab/adult"), is_remote("runs/adult")
    (True, False)
    """
    return os.fspath(path).startswith(PREFIX)


def parse(name: str) -> tuple[str, str | None]:
    """Repository and revision (None: the newest) of "hf:OWNER/NAME[@REVISION]".

    >>> parse("hf:heart-lab/adult@v1")
    ('heart-lab/adult', 'v1')

    Raises:
      HubError: it has another form.
    """
    repository, at, revision = name.removeprefix(PREFIX).partition("@")
    if not REPOSITORY.fullmatch(repository) or (at and not revision):
        raise HubError(f"{name!r} names no repository: give {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME@REVISION")
    return repository, revision or None


def download(name: str) -> pathlib.Path:
    """The folder, in huggingface_hub's cache, of a repository; only files that are not there yet are fetched.

    The Hub is asked which commit is meant, unless HF_HUB_OFFLINE is set; then the cache is taken as it is.

    Args:
      name: "hf:OWNER/NAME" or "hf:OWNER/NAME@REVISION", a branch, tag or commit.

    Raises:
      HubError: no such repository or revision, no right to read it, no connection, another kind of model, a damaged
        file, or huggingface_hub is missing. The cache never takes the place of a Hub that does not answer.
    """
    repository, revision = parse(name)
    library, api = _library()
    unreachable = "What was fetched before is used only with HF_HUB_OFFLINE=1"
    with _explained(api, repository, revision, unreachable):
        if library.constants.HF_HUB_OFFLINE:
            place = api.snapshot_download(
                repository, revision=revision, allow_patterns=list(FILES), local_files_only=True
            )
            folder = pathlib.Path(place)
            # The library names what it keeps by its hash.
            kept = {path: path.resolve().name for path in folder.rglob("*") if _is_needed(path.relative_to(folder))}
            hashes = {path: name for path, name in kept.items() if _HASH.fullmatch(name)}
        else:
            info = api.model_info(repository, revision=revision, files_metadata=True)
            wanted = [file for file in info.siblings if _is_needed(file.rfilename)]
            if not any(fnmatch.fnmatchcase(file.rfilename, WEIGHTS) for file in wanted):
                raise HubError(
                    f"{repository} on {api.endpoint} is no model of discovr_jax: it holds no {WEIGHTS}. Such "
                    "repositories are written by python -m discovr_jax.push"
                )
            names = [file.rfilename for file in wanted]
            folder = pathlib.Path(api.snapshot_download(repository, revision=revision, allow_patterns=names))
            if folder.name != info.sha:  # the library takes what it has where a connection ends between two requests
                raise HubError(f"{repository} on {api.endpoint} changed, or went away, while it was fetched: try again")
            hashes = {folder / file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in wanted}
    _verify(hashes)
    return folder


def upload(folder: pathlib.Path, repository: str, public: bool = False) -> str:
    """Send a folder of `slim` with a README.md to a repository, which is made if it is not there, as one commit.

    Files of an earlier push that the folder has not got are removed from the repository; its history keeps them.

    Args:
      repository: OWNER/NAME.
      public: otherwise the repository is private; one that is there and public is then refused.

    Returns:
      URL of the commit.

    Raises:
      HubError: as of `download`, or no right to write.
    """
    library, api = _library()
    with _explained(api, repository, None, "Nothing was pushed"):
        api.create_repo(repository, private=not public, exist_ok=True)
        info = api.model_info(repository)
        if not public and not info.private:
            raise HubError(f"{repository} on {api.endpoint} exists and is public: give --public, or another --repo")
        names = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        held = [file.rfilename for file in info.siblings]
        stale = [name for name in held if name.startswith(("checkpoints/", "eval/")) and name not in names]
        operations = [library.CommitOperationAdd(name, path) for name, path in names.items()]
        operations += [library.CommitOperationDelete(name) for name in stale]
        message = "Push an encoder of discovr_jax"
        # Refused if somebody else has committed since.
        return api.create_commit(repository, operations, commit_message=message, parent_commit=info.sha).commit_url


def _is_needed(name: str | os.PathLike) -> bool:
    return any(fnmatch.fnmatchcase(pathlib.PurePath(name).as_posix(), pattern) for pattern in FILES)


def _verify(hashes: Mapping[pathlib.Path, str]) -> None:
    """Raises HubError for a file whose content has another hash: SHA-256 of large files, git's SHA-1 of others."""
    for path, wanted in hashes.items():
        with path.open("rb") as file:
            if len(wanted) == 64:
                digest = hashlib.file_digest(file, "sha256")
            else:
                content = file.read()
                digest = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        if digest.hexdigest() != wanted:
            raise HubError(
                f"{path} is damaged: its hash is not the one that the Hub says. Delete {path.resolve()} and load again"
            )


def _library() -> tuple[Any, Any]:
    """The library, and its API at HF_ENDPOINT as it is now: the library itself looks when it is imported."""
    try:
        import huggingface_hub.constants  # the package alone does not load it
    except ImportError:
        raise HubError(
            "the Hub needs huggingface_hub, which is not installed: pip install 'discovr_jax[hub]'"
        ) from None
    endpoint = (os.environ.get("HF_ENDPOINT") or huggingface_hub.constants.ENDPOINT).rstrip("/")
    return huggingface_hub, huggingface_hub.HfApi(endpoint=endpoint, library_name="discovr_jax")


@contextlib.contextmanager
def _explained(api, repository: str, revision: str | None, unreachable: str) -> Iterator[None]:
    """Raises what the library raises as a HubError of one line, which ends in `unreachable` where nobody answers."""
    from huggingface_hub import constants, errors

    # Otherwise the library asks the Hub for a list of programs that may have started this one, and tells it which.
    told, constants.HF_HUB_DISABLE_TELEMETRY = constants.HF_HUB_DISABLE_TELEMETRY, True
    where, at = f"{repository} on {api.endpoint}", f" at {revision}" if revision else ""
    try:
        yield
    except (HubError, MemoryError):
        raise
    except errors.GatedRepoError:
        _fail(f"{where} is gated: accept its terms on its page in a browser, then {_LOG_IN}")
    except errors.RepositoryNotFoundError:
        _fail(where + _HIDDEN)
    except errors.RevisionNotFoundError:
        _fail(f"{where} has no revision {revision}: give a branch, a tag or a commit, or leave @{revision} out")
    except errors.OfflineModeIsEnabled:
        _fail(f"{where} was not asked, as HF_HUB_OFFLINE is set: unset it")
    except errors.LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            _fail(f"{where}{at} is not in the cache, and HF_HUB_OFFLINE is set: unset it to fetch it")
        _fail(f"{where}: no answer of a Hub ({_said(error)}). {unreachable}")
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:  # of a repository that is not there too, so as not to tell
            _fail(where + _HIDDEN)
        hint = f"{_LOG_IN} with an account that may" if status == 403 else "try again later"
        _fail(f"{where} was refused with status {status}: {hint}")
    except OSError:
        raise  # of this machine's disk
    except ValueError as error:
        _fail(f"{where}: {' '.join(str(error).split())[:500]}")
    except Exception as error:  # of the library's transport, another one in each of its versions
        _fail(f"{where}: no answer of a Hub ({_said(error)}). {unreachable}")
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = told


def _fail(reason: str) -> NoReturn:
    raise HubError(reason) from None


def _said(error: BaseException) -> str:
    """Kind and words of what is behind an error, on one line."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
