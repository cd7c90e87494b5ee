"""Stores of and in object storage, by real servers that fail and stall."""

import importlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from hornbook.errors import DataError
from hornbook.preparation.documents import Reading
from hornbook.preparation.work import Wanted, prepare
from hornbook.storage import objects
from hornbook.text import shards
from hornbook.text.store import Drawing, Store, open_store


@pytest.fixture(autouse=True)
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(objects, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(objects, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(shards, "PIECE_BYTES", 5000)  # many in a small store


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    drawn = random.Random(0)
    for name in "ab":
        rows = ({"t": f"{name}{i} " + " 사과 pear"[: drawn.randint(2, 9)] * 9} for i in range(200))
        lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def made_of(source: str, out: Path) -> Store:
    wanted = Wanted(
        sources=[source], reading=Reading(field="t"), tokenizer="byte", validation_share=0.2,
        unit_bytes=4_000,
    )  # fmt: skip
    made = prepare(wanted, out)
    assert made.store is not None
    return made.store


def drawn(store: Store) -> np.ndarray:
    drawing = Drawing.of(store, store.sample("train"), None, block_size=16, seed=1)
    return drawing.draw(np.arange(drawing.orders[0].blocks))[0]


def files_below(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


class Server(BaseHTTPRequestHandler):
    """Serves files with ranges; `refuse` may fail or delay any request."""

    files: ClassVar[dict[str, bytes]] = {}
    refuse: ClassVar[Callable[[int], str]] = lambda _number: ""
    requests: ClassVar[int] = 0

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        Server.requests += 1
        what = Server.refuse(Server.requests)
        if what == "stall":
            time.sleep(1.5)
            return
        data = self.files.get(self.path.lstrip("/"))
        if what == "fail" or data is None:
            self.send_error(503 if what == "fail" else 404)
            return
        status, given = 200, self.headers.get("Range")
        if given:
            first, _, last = given.removeprefix("bytes=").partition("-")
            status, data = 206, data[int(first) : int(last) + 1 if last else None]
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) // 2 if what == "cut" else None])


@pytest.fixture
def server() -> Iterator[str]:
    running = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    Server.files, Server.requests, Server.refuse = {}, 0, lambda _number: ""
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()
    thread.join()


def test_a_store_of_object_storage_is_that_of_the_same_files_here(
    texts: Path, tmp_path: Path
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    bucket = MemoryFileSystem()
    for name, data in files_below(texts).items():
        bucket.pipe_file(f"/bucket/{name}", data)
    here = made_of(str(texts), tmp_path / "here")
    for number, source in enumerate(("memory://bucket", "memory://bucket/*.jsonl")):
        assert made_of(source, tmp_path / f"there{number}").sha256 == here.sha256
    bucket.pipe_file("/bucket/a.jsonl", b'{"t": "changed"}\n')
    with pytest.raises(DataError, match=r"nothing is there|found none"):
        made_of("memory://bucket/none", tmp_path / "none")
    bucket.rm("/bucket", recursive=True)


def test_training_reads_a_store_elsewhere_through_a_bounded_folder(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    here, bucket = made_of(str(texts), tmp_path / "here"), MemoryFileSystem()
    for name, data in files_below(here.path).items():
        bucket.pipe_file(f"/kept/store/{name}", data)
    monkeypatch.setenv("HORNBOOK_STORE_CACHE_MB", "0")
    there = open_store("memory://kept/store/")
    assert there.sha256 == here.sha256
    assert (drawn(there) == drawn(here)).all()
    kept = [*(tmp_path / "cache" / "stores").rglob("shards-*")]
    assert len(kept) == 1  # the newest piece stays, whatever the limit
    monkeypatch.delenv("HORNBOOK_STORE_CACHE_MB")
    assert (drawn(open_store("memory://kept/store")) == drawn(here)).all()
    kept = [*(tmp_path / "cache" / "stores").rglob("shards-*train*")]
    assert len(kept) == sum(len(shard.train.sha256) for shard in here.manifest.shards)
    kept[0].write_bytes(b"damaged")  # and fetched again
    assert (drawn(open_store("memory://kept/store")) == drawn(here)).all()
    name = here.manifest.shards[2].train.file
    sound = bucket.cat_file(f"/kept/store/{name}")
    for path in kept:
        path.unlink()
    bucket.pipe_file(f"/kept/store/{name}", bytes([sound[0] ^ 1]) + sound[1:])
    with pytest.raises(DataError, match=f"{name}: a shard is damaged: its bytes from 0 on"):
        drawn(open_store("memory://kept/store"))
    bucket.rm(f"/kept/store/{name}")
    with pytest.raises(DataError, match=f"{name}: a shard is missing"):
        open_store("memory://kept/store")
    bucket.rm("/kept", recursive=True)


@pytest.mark.parametrize("how", ["fail", "cut"])
def test_requests_that_fail_are_made_again(
    texts: Path, tmp_path: Path, server: str, how: str
) -> None:
    here = made_of(str(texts), tmp_path / "here")
    Server.files = {f"store/{name}": data for name, data in files_below(here.path).items()}
    Server.refuse = lambda number: how if number % 3 == 0 else ""
    assert (drawn(open_store(f"{server}/store")) == drawn(here)).all()
    assert Server.requests > 10


def test_a_request_without_an_answer_is_made_again(
    texts: Path, tmp_path: Path, server: str
) -> None:
    here = made_of(str(texts), tmp_path / "here")
    Server.files = {"a.jsonl": (texts / "a.jsonl").read_bytes()}
    Server.refuse = lambda number: "stall" if number == 5 else ""
    (texts / "b.jsonl").unlink()
    alone = made_of(str(texts), tmp_path / "alone")
    assert made_of(f"{server}/a.jsonl", tmp_path / "there").sha256 == alone.sha256 != here.sha256


def test_a_server_that_stays_away_is_one_line_and_nothing_is_lost(
    texts: Path, tmp_path: Path, server: str
) -> None:
    (texts / "b.jsonl").unlink()
    here = made_of(str(texts), tmp_path / "here")
    Server.files = {"a.jsonl": (texts / "a.jsonl").read_bytes()}
    Server.refuse = lambda number: "fail" if number > 12 else ""
    with pytest.raises(DataError, match="5 attempts failed, the last one with: ") as caught:
        made_of(f"{server}/a.jsonl", tmp_path / "there")
    assert "\n" not in str(caught.value)
    written = [*(tmp_path / "there" / "shards").glob("[0-9]*.json")]
    assert written
    times = {path: path.stat().st_mtime_ns for path in written}
    Server.refuse = lambda _number: ""
    out = tmp_path / "there"
    begun = prepare  # the same command
    made = begun(
        Wanted(sources=[f"{server}/a.jsonl"], reading=Reading(field="t"), tokenizer="byte",
               validation_share=0.2, unit_bytes=4_000),
        out,
    )  # fmt: skip
    assert made.made == made.shards - len(times)
    assert made.store is not None
    assert made.store.sha256 == here.sha256
    Server.files = {}
    with pytest.raises(DataError, match="nothing is there"):
        objects.read(f"{server}/none")


def test_s3_by_motos_server(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs s3fs and moto (300 MB), which are not among the packages for tests.

    pip install --target FOLDER s3fs "moto[server]", and PYTHONPATH=src:FOLDER.
    """
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    serving = importlib.import_module("werkzeug.serving")
    application = moto.DomainDispatcherApplication(moto.create_backend_app)
    requests = count()
    failing = threading.Event()

    def some_fail(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        number = next(requests) if failing.is_set() else 1
        if number % 5 == 0:
            start("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        if number == 12:
            time.sleep(3)
        return application(environ, start)

    server = serving.make_server("127.0.0.1", 0, some_fail, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        monkeypatch.setattr(objects, "ANSWER_SECONDS", 20.0)
        filesystem, _ = objects.filesystem_of("s3://bucket")
        filesystem.mkdir("bucket")
        here = made_of(str(texts), tmp_path / "here")
        filesystem.put(f"{texts}/", "bucket/texts/", recursive=True)
        filesystem.put(f"{here.path}/", "bucket/store/", recursive=True)
        failing.set()
        monkeypatch.setattr(objects, "ANSWER_SECONDS", 2.0)
        assert made_of("s3://bucket/texts", tmp_path / "there").sha256 == here.sha256
        assert (drawn(open_store("s3://bucket/store")) == drawn(here)).all()
        assert next(requests) > 30
        with pytest.raises(DataError, match=r"nothing is there|found none"):
            made_of("s3://bucket/nothing", tmp_path / "nothing")
    finally:
        server.shutdown()
        server.server_close()
