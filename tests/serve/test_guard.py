"""Who is let in, and what slow, broken and hostile clients cannot do."""

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import KEY, Local, post_bytes, serving

from hornbook.serve.connection import Connection
from hornbook.serve.guard import MOST_BODY_BYTES, OPEN_PATHS, Guard
from hornbook.serve.server import Options

ORIGIN = "https://chat.example.org"


@pytest.fixture(scope="module")
def keyed(runs: list[Path]) -> Iterator[Local]:
    """A server with a key and an allowed origin."""
    options = Options(api_keys=(KEY,), allow_origins=(ORIGIN,))
    with serving(runs[:1], options) as server:
        yield server


def test_only_the_servers_own_hosts_are_answered(local: Local) -> None:
    port = local.port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}", f"[::1]:{port}"):
        assert local.get("/health", Host=host).status == 200
    for host in ("", "localhost", "localhost:1", f"localhost.evil:{port}", f"evil:{port}",
                 f"127.0.0.1:{port}.evil", f"localhost:{port}@evil", "null"):  # fmt: skip
        answer = local.get("/health", Host=host)
        assert answer.status == 403, host
        assert "Host" in answer.message
    assert local.get("/health", Host=f"{'a' * 3000}:{port}").status == 403


@pytest.mark.parametrize(
    "request_",
    [b"GET /health HTTP/1.1\r\n\r\n", b"GET /health HTTP/1.0\r\n\r\n",
     b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"nonsense\r\n\r\n",
     b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
     b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
     b"GET /" + b"a" * 100_000],
    ids=range(7),
)  # fmt: skip
def test_requests_that_are_none_are_refused_and_closed(local: Local, request_: bytes) -> None:
    with local.raw(request_) as connection:
        connection.settimeout(10)
        try:
            answer = connection.recv(1000)
        except ConnectionResetError:
            return
        assert re.match(rb"HTTP/1.1 4\d\d ", answer), answer


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost", "http://127.0.0.1:1", "file://"]
)
def test_foreign_pages_are_refused(local: Local, origin: str) -> None:
    for answer in (
        local.post("/v1/completions", {"model": "gpt"}, Origin=origin),
        local.get("/v1/models", Origin=origin),
        local.ask("OPTIONS", "/v1/completions", Origin=origin),
    ):
        assert answer.status == 403
        assert not any("access-control" in name for name in answer.headers)


def test_its_own_page_may_use_it(local: Local) -> None:
    assert local.get("/v1/models", Origin=local.url).status == 200
    other = f"http://localhost:{local.port}"
    assert local.get("/v1/models", Origin=other).status == 403, "another name than the Host"
    foreign = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}
    assert local.get("/v1/models", **foreign).status == 403
    assert local.get("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate").status == 200
    assert local.get("/", Sec_Fetch_Site="same-origin").status == 200


def test_an_allowed_origin_gets_what_browsers_ask_for(keyed: Local) -> None:
    before = keyed.ask("OPTIONS", "/v1/completions", Origin=ORIGIN)
    assert before.status == 204
    assert before.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in before.headers["access-control-allow-headers"]
    answer = keyed.get("/v1/models", Origin=ORIGIN, Authorization=f"Bearer {KEY}")
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    refused = keyed.get("/v1/models", Origin=ORIGIN)
    assert refused.status == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN, "or the page sees no error"
    assert keyed.get("/health", Origin=ORIGIN + ".evil").status == 403


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
     "text/plain; application/json", "application/jsonx"],
)  # fmt: skip
def test_post_takes_json_only(local: Local, kind: str) -> None:
    body = json.dumps({"model": "gpt", "prompt": "a"}).encode()
    assert local.ask("POST", "/v1/completions", body, Content_Type=kind).status == 415


def test_every_response_forbids_guessing_types_and_running_scripts(local: Local) -> None:
    for answer in (local.get("/"), local.get("/nothing"), local.complete(), local.get("/health"),
                   local.get("/health", Host="evil"), local.complete(stream=True)):  # fmt: skip
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert "server" not in answer.headers
    written = local.complete(prompt="a<script>", unknown="skip", echo=True)
    assert written.headers["content-type"] == "application/json"


def test_no_route_but_health_and_the_page_works_without_the_key(keyed: Local) -> None:
    schema = keyed.get("/openapi.json", Authorization=f"Bearer {KEY}").json
    routes = [(method, path) for path, found in schema["paths"].items() for method in found]
    assert len(routes) > 8
    routes += [("get", "/openapi.json"), ("get", "/no/such/route"), ("post", "/"), ("get", "//")]
    wrong = ["", KEY, f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer ", "Bearer"]
    for method, template in routes:
        path = template.replace("{model}", "gpt")
        for given in wrong:
            headers = {"Authorization": given} if given else {}
            answer = keyed.ask(
                method.upper(), path, b"{}", Content_Type="application/json", **headers
            )
            if path in OPEN_PATHS:
                assert answer.status != 401
            else:
                assert answer.status == 401, (method, path, given)
                assert answer.headers["www-authenticate"] == "Bearer"
    assert keyed.complete(Authorization=f"Bearer {KEY}").status == 401, "in the body it is no key"
    asked = {"model": "gpt", "prompt": "a"}
    assert keyed.post("/v1/completions", asked, Authorization=f"bearer {KEY}").status == 200


def test_keys_are_in_no_log_and_no_figure(keyed: Local, capfd: pytest.CaptureFixture[str]) -> None:
    bearer = f"Bearer {KEY}"
    keyed.get(f"/v1/models?api_key={KEY}", Authorization=bearer)
    keyed.get("/v1/models", Authorization=f"Bearer {KEY}-wrong")
    assert KEY not in keyed.get("/metrics", Authorization=bearer).body.decode()
    logged = capfd.readouterr().err
    assert logged.count("/v1/models") == 2
    assert KEY not in logged
    assert KEY not in repr(keyed.server.config.app._rules)


def test_bodies_over_a_mebibyte_are_refused_unread(local: Local) -> None:
    head = post_bytes(local.port, b"")
    large = head.replace(b"Content-Length: 0", b"Content-Length: %d" % (64 << 20))
    with local.raw(large) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")
    chunked = head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    piece = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    with local.raw(chunked) as connection:
        for _ in range(MOST_BODY_BYTES // 65_536 + 1):
            connection.sendall(piece)
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")
    body = json.dumps({"model": "gpt", "prompt": "the "}).encode()
    padded = body + b" " * (MOST_BODY_BYTES - len(body))
    assert local.ask("POST", "/v1/completions", padded, Content_Type="application/json").status == (
        200
    )
    false = head.replace(b"Content-Length: 0", b"Content-Length: 5") + body
    with local.raw(false) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 "), "what follows is no request"


class Impatient(Connection):
    header_seconds = 0.5
    write_seconds = 0.5
    most_connections = 260


def closed_within(connection: socket.socket, seconds: float) -> bool:
    """Whether the server closes a connection, whatever it sends before."""
    connection.settimeout(seconds)
    try:
        while connection.recv(65_536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_slow_clients_are_closed_and_delay_nobody(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Guard, "body_seconds", 0.5)
    with serving(runs[:1], connection=Impatient) as server:
        begun = post_bytes(server.port, b"x" * 100)
        kinds = (b"", begun[:20], begun[:-50])  # nothing, part of the headers, part of the body
        slow = [server.raw(kinds[number % 3]) for number in range(200)]
        started = time.monotonic()
        assert server.complete().status == 200
        assert time.monotonic() - started < 5
        assert all(closed_within(each, 10) for each in slow)
        for each in slow:
            each.close()
        again = server.raw(
            f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()
        )
        assert again.recv(2000).startswith(b"HTTP/1.1 200 ")
        again.sendall(b"GET /hea")  # slow in its second request
        assert closed_within(again, 10)
        again.close()


def test_a_client_that_reads_nothing_is_dropped(runs: list[Path]) -> None:
    with serving(runs[:1], connection=Impatient) as server:
        asked = {"n": 16, "max_tokens": 16_000, "logprobs": 20, "prompt": "the "}
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", server.port))
            body = json.dumps({"model": "gpt", "stream": True} | asked).encode()
            reader.sendall(post_bytes(server.port, body))
            until(lambda: server.figure("generations") == 16)
            until(lambda: server.figure("generations") == 0)
        assert server.figure("generated_tokens_total") < 16 * 16_000


def test_connections_are_limited(runs: list[Path]) -> None:
    with serving(runs[:1], connection=Impatient) as server:
        open_ = [server.raw() for _ in range(Impatient.most_connections)]
        with server.raw() as further:
            answer = further.recv(1000)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After" in answer
        for each in open_:
            each.close()
        until(lambda: server.get("/health").status == 200)


def until(condition: object, seconds: float = 20) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
