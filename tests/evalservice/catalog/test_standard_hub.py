"""A download by the `datasets` library, from a server that speaks as much of the Hub's API as the library asks for."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT, clean_environment
from tests.evalservice.catalog.standard_copies import GSM8K

pytest.importorskip("datasets", reason="the datasets library is not installed: pip install 'evalservice[datasets]'")

DOWNLOADED = """
import sys, pathlib
from evalservice.catalog.standard.definition import standard_benchmark
from evalservice.catalog.standard.hub import download
from evalservice.catalog.standard.install import prepare
folder = pathlib.Path(sys.argv[1])
revision = download(standard_benchmark("gsm8k"), folder / "copy")
print(revision, prepare(standard_benchmark("gsm8k"), folder / "copy", str(folder / "data")).snapshot.total)
"""
CARD = b"---\nconfigs:\n- config_name: main\n  data_files:\n  - split: test\n    path: main/test-*\n---\n"


def _parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(GSM8K), sink)
    return sink.getvalue()


FILES = {"README.md": CARD, "main/test-00000-of-00001.parquet": _parquet()}


class Hub(BaseHTTPRequestHandler):
    """One data set, at every revision that is asked for."""

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        if "/resolve/" in path:
            revision, _, name = path.partition("/resolve/")[2].partition("/")
            self._file(revision, name)
        elif "/tree/" in path:
            inside = path.partition("/tree/")[2].partition("/")[2]
            below = [_entry(name) for name in FILES if str(Path(name).parent) == (inside or ".")]
            self._json(below if inside else [*below, {"type": "directory", "path": "main", "oid": "", "size": 0}])
        else:
            files = [{"rfilename": name} for name in FILES]
            self._json({"id": "openai/gsm8k", "sha": path.rpartition("/")[2], "siblings": files, "tags": []})

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _file(self, revision: str, name: str) -> None:
        content = FILES.get(name)
        self.send_response(404 if content is None else 200)
        self.send_header("X-Repo-Commit", revision)
        self.send_header("ETag", f'"{hashlib.sha1(content or b"").hexdigest()}"')
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self._body(content or b"")

    def _json(self, document: Any) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self._body(json.dumps(document).encode())

    def _body(self, content: bytes) -> None:
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _entry(name: str) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(FILES[name]), "oid": hashlib.sha1(FILES[name]).hexdigest()}


@pytest.fixture
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def downloaded(endpoint: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(HF_ENDPOINT=endpoint, HF_HOME=str(folder / "hf"))
    command = [sys.executable, "-c", DOWNLOADED, str(folder)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_download_is_read_as_a_copy_of_the_hubs_layout(hub: str, tmp_path: Path) -> None:
    ended = downloaded(hub, tmp_path)
    assert ended.stdout.split() == ["cc7b047b6e5bb11b4f1af84efc572db110a51b3c", "2"], ended.stderr


def test_no_network_is_told_with_what_to_fetch(tmp_path: Path) -> None:
    ended = downloaded("http://127.0.0.1:9", tmp_path)
    assert "openai/gsm8k cannot be downloaded" in ended.stderr
    assert "install it with --from FILE_OR_FOLDER" in ended.stderr
