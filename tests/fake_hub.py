"""A Hugging Face Hub on loopback: as much of its HTTP API as huggingface_hub asks for, in the memory of this process.

Large files go the way of Git LFS, as from a client without hf_xet. What the Hub checks of a model card and a commit is
checked as far as it is known.
"""

import base64
import dataclasses
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from typing import Any

import yaml

TOKEN = "hf_token_of_the_owner"
LICENCES = ("apache-2.0", "cc-by-4.0", "cc-by-nc-4.0", "other")


@dataclasses.dataclass
class Repository:
    """Commits of one branch, the newest last: [(hash, {path: content})]."""

    private: bool
    gated: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self.commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})

    def commit(self, files: dict[str, bytes]) -> str:
        number = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits.append((number, files))
        return number

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((each for each in self.commits if each[0] == revision), None)


def is_large(path: str) -> bool:
    return path.endswith(".safetensors")


def etag(path: str, content: bytes) -> str:
    if is_large(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def described(path: str, content: bytes) -> dict[str, Any]:
    large = {"sha256": etag(path, content), "size": len(content), "pointerSize": 134}
    return {"size": len(content)} | ({"lfs": large} if is_large(path) else {})


class Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", **content: str):
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message}
        self.content = {"error": message} | content


class FakeHub:
    """A server; `url` is its endpoint.

    Attributes:
      repositories: by OWNER/NAME; requests: "METHOD PATH" of all that was asked, by `user_agents`.
      damaged: paths of files whose bytes are served with one bit flipped.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.user_agents: set[str] = set()
        self.damaged: set[str] = set()
        self._large: dict[str, bytes] = {}
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub._answer(self)

            do_HEAD = do_POST = do_PUT = do_GET

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def fetched(self) -> set[str]:
        """Paths of the files whose content was asked for."""
        return {each.split("/", 5)[5] for each in self.requests if re.match(r"GET /[^/]+/[^/]+/resolve/", each)}

    def _answer(self, handler):
        url = urllib.parse.urlsplit(handler.path)
        path = urllib.parse.unquote(url.path)
        self.requests.append(f"{handler.command} {path}")
        self.user_agents.add(handler.headers["User-Agent"])
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        owner = handler.headers.get("Authorization") == f"Bearer {TOKEN}"
        try:
            status, headers, content = 200, {}, self._route(handler.command, path, body, owner)
            if isinstance(content, tuple):
                headers, content = content
        except Refused as refused:
            status, headers, content = refused.status, refused.headers, refused.content
        if not isinstance(content, bytes):
            content, headers = json.dumps(content).encode(), headers | {"Content-Type": "application/json"}
        handler.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(content)

    def _route(self, method: str, path: str, body: bytes, owner: bool):
        routes = (
            ("POST", r"/api/repos/create", self._create),
            ("POST", r"/api/validate-yaml", self._validate),
            ("PUT", r"/large/(\w+)", self._store),
            ("GET", r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?", self._info),
            ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", self._tree),
            ("POST", r"/api/models/([^/]+/[^/]+)/preupload/main", self._preupload),
            ("POST", r"/api/models/([^/]+/[^/]+)/commit/main", self._commit),
            ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            ("GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
        )
        for known, pattern, function in routes:
            if known == method.replace("HEAD", "GET") and (match := re.fullmatch(pattern, path)):
                return function(body, owner, *match.groups())
        raise Refused(501, message=f"this fake knows no {method} {path}")

    def _readable(self, name: str, owner: bool) -> Repository:
        found = self.repositories.get(name)
        if found and (owner or not found.private):
            return found
        raise Refused(404 if owner else 401, "RepoNotFound" if owner else "", "Repository not found")

    def _writable(self, name: str, owner: bool) -> Repository:
        if not owner:
            raise Refused(401, message="Invalid username or password.")
        return self._readable(name, owner)

    def _at(self, name: str, revision: str | None, owner: bool) -> tuple[Repository, str, dict[str, bytes]]:
        repository = self._readable(name, owner)
        if (found := repository.at(revision or "main")) is None:
            raise Refused(404, "RevisionNotFound", "Invalid rev id")
        return (repository, *found)

    def _create(self, body, owner):
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if not owner:
            raise Refused(401, message="Invalid username or password.")
        if name in self.repositories:
            raise Refused(409, message="You already created this model repo", url=f"{self.url}/{name}")
        private = asked.get("private") or asked.get("visibility") == "private"
        self.repositories[name] = Repository(private)
        return {"url": f"{self.url}/{name}"}

    def _validate(self, body, owner):
        text = json.loads(body)["content"]
        card = yaml.safe_load(text.split("---\n")[1])
        if card["license"] not in LICENCES:
            raise Refused(400, message=f'"license" must be one of {", ".join(LICENCES)}')
        return {"errors": [], "warnings": []}

    def _store(self, body, owner, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self._large[oid] = body
        return {}

    def _info(self, body, owner, name, revision):
        repository, commit, files = self._at(name, revision, owner)
        siblings = [
            {"rfilename": path, "blobId": hashlib.sha1(b"pointer").hexdigest() if is_large(path) else etag(path, each)}
            | described(path, each)
            for path, each in files.items()
        ]
        gated = "manual" if repository.gated else False
        return {"id": name, "sha": commit, "private": repository.private, "gated": gated, "siblings": siblings}

    def _tree(self, body, owner, name, revision):
        _, _, files = self._at(name, revision, owner)
        return [
            {"type": "file", "path": path, "oid": etag(path, each)} | _oid(described(path, each))
            for path, each in files.items()
        ]

    def _preupload(self, body, owner, name):
        held = self._writable(name, owner).commits[-1][1]
        asked = [each["path"] for each in json.loads(body)["files"]]
        return {
            "files": [
                {"path": path, "uploadMode": "lfs" if is_large(path) else "regular", "shouldIgnore": False}
                | ({"oid": etag(path, held[path])} if path in held else {})
                for path in asked
            ]
        }

    def _batch(self, body, owner, name):
        self._writable(name, owner)
        actions = [
            {**each, "actions": {"upload": {"href": f"{self.url}/large/{each['oid']}"}}}
            for each in json.loads(body)["objects"]
        ]
        return {"transfer": "basic", "objects": actions}

    def _commit(self, body, owner, name):
        repository = self._writable(name, owner)
        lines = [json.loads(line) for line in body.splitlines()]
        parent, files = repository.commits[-1]
        if lines[0]["value"].get("parentCommit", parent) != parent:
            raise Refused(412, message="A commit has happened since. Please refresh and try again.")
        files = dict(files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self._large[value["oid"]]
            else:
                del files[value["path"]]
        number = repository.commit(files)
        return {"commitUrl": f"{self.url}/{name}/commit/{number}", "commitOid": number}

    def _resolve(self, body, owner, name, revision, path):
        repository, commit, files = self._at(name, revision, owner)
        if repository.gated and not owner:
            raise Refused(401, "GatedRepo", "Access to this model is restricted")
        if path not in files:
            raise Refused(404, "EntryNotFound", "Entry not found")
        content = files[path]
        headers = {"ETag": f'"{etag(path, content)}"', "X-Repo-Commit": commit}
        if is_large(path):
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(content))}
        if path in self.damaged:
            content = bytes([content[0] ^ 1]) + content[1:]
        return headers, content


def _oid(about: dict[str, Any]) -> dict[str, Any]:
    """In listings of a tree the SHA-256 of a large file has another name than among siblings."""
    return about | ({"lfs": about["lfs"] | {"oid": about["lfs"]["sha256"]}} if "lfs" in about else {})
