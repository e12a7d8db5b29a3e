"""Do huggingface_hub and trimtab read each other's caches?

    python hub_cache.py TRIMTAB MODEL

`MODEL` is a Hugging Face directory. A hub on the loopback interface serves it as `owner/name`, once to each program, into a cache of its own. Then the hub stops, and each reads the cache that the other one filled. Prints one JSON line; exits with 1 if anything fails. The versions are those of requirements-gptq.txt.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from urllib.parse import unquote, urlparse

NAME = "owner/name"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin", ".gguf", ".model")


class Hub:
    """The files of a directory behind the routes that downloads take."""

    def __init__(self, directory: Path):
        self.files = {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file()}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self.respond(body=False)

            def do_GET(self):
                self.respond(body=True)

            def send(self, status: int, content: bytes, body: bool, **headers: str):
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def respond(self, body: bool):
                path = unquote(urlparse(self.path).path)
                if path.startswith(f"/api/models/{NAME}/tree/"):
                    return self.send(200, hub.tree(), body, Content_Type="application/json")
                if path.startswith(f"/api/models/{NAME}"):
                    return self.send(200, hub.listing(), body, Content_Type="application/json")
                prefix, _, rest = path.partition("/resolve/")
                name = rest.partition("/")[2]
                content = hub.files.get(name)
                if prefix != f"/{NAME}" or content is None:
                    return self.send(404, b"", body, X_Error_Code="EntryNotFound")
                headers = {"ETag": f'"{hub.etag(name)}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
                span = self.headers.get("Range", "")
                if span.startswith("bytes="):
                    first, _, last = span.removeprefix("bytes=").partition("-")
                    end = min(int(last) if last else len(content) - 1, len(content) - 1)
                    headers["Content_Range"] = f"bytes {first}-{end}/{len(content)}"
                    return self.send(206, content[int(first) : end + 1], body, **headers)
                return self.send(200, content, body, **headers)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def etag(self, name: str) -> str:
        """The name in the cache: SHA-256 of large files, git's hash of others."""
        content = self.files[name]
        if name.endswith(LARGE):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def listing(self) -> bytes:
        def entry(name: str) -> dict:
            size, etag = len(self.files[name]), self.etag(name)
            if name.endswith(LARGE):
                large = {"sha256": etag, "size": size, "pointerSize": 134}
                return {"rfilename": name, "size": size, "blobId": "0" * 40, "lfs": large}
            return {"rfilename": name, "size": size, "blobId": etag}

        siblings = [entry(name) for name in self.files]
        return json.dumps({"id": NAME, "modelId": NAME, "sha": COMMIT, "siblings": siblings}).encode()

    def tree(self) -> bytes:
        """The same as a listing of a folder."""

        def entry(name: str) -> dict:
            size, etag = len(self.files[name]), self.etag(name)
            file = {"type": "file", "path": name, "size": size, "oid": etag}
            if name.endswith(LARGE):
                return file | {"oid": "0" * 40, "lfs": {"oid": etag, "size": size, "pointerSize": 134}}
            return file

        return json.dumps([entry(name) for name in self.files]).encode()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def environment(cache: Path, endpoint: str, offline: bool) -> dict[str, str]:
    ours = {"HF_HUB_CACHE": str(cache), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": str(int(offline))}
    return os.environ | ours | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def python(code: str, env: dict[str, str]):
    """The JSON that `code` prints in a process of its own: the libraries read their environment once."""
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"error": done.stderr[-800:]}


def trimtab(program: str, env: dict[str, str]) -> str | None:
    """What `trimtab inspect` complains of."""
    done = subprocess.run([program, "inspect", NAME, "--json"], env=env, capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr[-800:]


def layout(cache: Path) -> dict[str, str]:
    """What the cache holds by path: links with their targets, files with their hashes, without locks and marks."""
    found = {}
    folder = cache / ("models--" + NAME.replace("/", "--"))
    for path in sorted(folder.rglob("*")):
        key = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[key] = "-> " + os.readlink(path)
        elif path.is_file():
            found[key] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


DOWNLOAD = f"""
import json
from huggingface_hub import snapshot_download
print(json.dumps(snapshot_download({NAME!r})))
"""
READ = f"""
import json
from pathlib import Path
from huggingface_hub import scan_cache_dir, snapshot_download
from transformers import AutoConfig, AutoTokenizer
directory = Path(snapshot_download({NAME!r}, local_files_only=True))
scan = scan_cache_dir()
(repo,) = scan.repos
(revision,) = repo.revisions
print(json.dumps({{
    "files": sorted(path.name for path in directory.iterdir()),
    "scanned": [repo.repo_id, repo.repo_type, revision.commit_hash, sorted(revision.refs), len(revision.files)],
    "warnings": [str(warning) for warning in scan.warnings],
    "model_type": AutoConfig.from_pretrained({NAME!r}).model_type,
    "vocabulary": len(AutoTokenizer.from_pretrained({NAME!r})),
}}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trimtab")
    parser.add_argument("model", type=Path)
    args = parser.parse_args()

    hub = Hub(args.model)
    with tempfile.TemporaryDirectory() as root:
        ours, theirs = Path(root, "trimtab"), Path(root, "huggingface_hub")
        filled = trimtab(args.trimtab, environment(ours, hub.address, False))
        downloaded = python(DOWNLOAD, environment(theirs, hub.address, False))
        hub.stop()
        read = python(READ, environment(ours, hub.address, True))
        opened = trimtab(args.trimtab, environment(theirs, hub.address, True))
        # The control: an empty cache has to be refused by both.
        empty = Path(root, "empty")
        empty.mkdir()
        control = trimtab(args.trimtab, environment(empty, hub.address, True)) is not None
        control &= "error" in python(READ, environment(empty, hub.address, True))
        mine, other = layout(ours), layout(theirs)
    differing = sorted(key for key in mine if other.get(key) != mine[key])
    passed = filled is None and opened is None and "error" not in read and not differing and control
    passed &= isinstance(downloaded, str) and not read["warnings"] and read["scanned"][2] == COMMIT
    json.dump(
        {
            "passed": passed,
            "trimtab_fills": filled or "ok",
            "huggingface_hub_reads": read,
            "huggingface_hub_fills": "ok" if isinstance(downloaded, str) else downloaded,
            "trimtab_reads": opened or "ok",
            "differing_entries": differing,
            "only_huggingface_hub_has": sorted(other.keys() - mine.keys()),
            "empty_cache_refused": control,
            "huggingface_hub": version("huggingface_hub"),
            "transformers": version("transformers"),
        },
        sys.stdout,
    )
    print()
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
