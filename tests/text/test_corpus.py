"""Reading text: names, files, folders, standard input and URLs; and saying in a line why not."""

import errno
import hashlib
import io
import os
import re
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.errors import ConfigError, DataError, HornbookError
from hornbook.text.corpora import KnownCorpus, known_corpora
from hornbook.text.corpus import load_text, path_reference, read_corpus

HANGUL = "안녕하세요. 이것은 한국어로 쓴 글입니다.\n" * 20


@pytest.fixture(autouse=True)
def house(tmp_path, monkeypatch):
    """A working folder, a data folder and a cache that are the test's own."""
    for name in ("here", "data", "cache"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HORNBOOK_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def put(path: str | Path, content: str | bytes) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(corpus, error: type[HornbookError] = DataError, **options) -> str:
    """The one line that says why a corpus cannot be read."""
    with pytest.raises(error) as raised:
        read_corpus(corpus, **options)
    message = str(raised.value)
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 600
    return message


# Names


def test_the_default_comes_with_python():
    corpus = read_corpus("python-docs")
    assert corpus.name == "python-docs"
    assert corpus.source == "pydoc_data.topics"
    assert corpus.text == load_text()
    assert 300_000 < len(corpus.text) < 900_000
    assert 90 < len(set(corpus.text)) < 150
    assert corpus.sha256 == hashlib.sha256(corpus.text.encode()).hexdigest()


@pytest.mark.skipif(sys.version_info[:3] != (3, 11, 7), reason="the topics change with Python")
def test_the_default_is_counted_on_one_python():
    assert len(load_text()) == 465_048
    assert len(set(load_text())) == 103


def test_a_python_without_its_topics_is_told_what_else_to_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert re.search(
        "without pydoc_data.topics.*shakespeare.*file of your own", refusal("python-docs")
    )
    assert known_corpora()[0].location is None


def test_real_corpora_are_found_by_name_and_alias(data_dir, shakespeare_path, monkeypatch):
    monkeypatch.setenv("HORNBOOK_DATA_DIR", str(data_dir))
    for name in ("shakespeare", "tinyshakespeare"):
        corpus = read_corpus(name)
        assert corpus.name == "shakespeare"
        assert len(corpus.text) == 1_115_394
        assert corpus.source == str(shakespeare_path)
        assert corpus.sha256.startswith("86c4e6aa")
    korean = read_corpus("korean-novels")
    assert len(korean.text) == 312_604
    assert "\r" in korean.text  # line ends stay as they are
    places = {known.name: known.location for known in known_corpora()}
    assert places["shakespeare"] == str(shakespeare_path)
    assert places["korean-novels"] == korean.source


def test_what_is_not_here_has_no_location():
    known = {k.name: k for k in known_corpora()}
    assert list(known) == ["python-docs", "shakespeare", "korean-novels"]
    assert known["shakespeare"].location is None
    assert known["shakespeare"].characters == 1_115_394
    assert known["python-docs"].location == "pydoc_data.topics"
    assert known["python-docs"].characters == len(load_text())


def test_an_absent_corpus_without_an_address_says_where_to_put_it(house):
    expected = house / "data" / "korean-novels" / "input.txt"
    assert str(expected) in refusal("korean-novels")


def test_a_wrong_file_in_the_data_folder_is_named(house):
    path = put(house / "data/korean-novels/input.txt", "other words")
    message = refusal("korean-novels")
    assert str(path) in message
    assert "43c92891" in message
    assert hashlib.sha256(b"other words").hexdigest() in message


def test_the_data_folder_comes_before_the_cache(house):
    text = "in the cache\n"
    known = KnownCorpus("little", "", sha256=hashlib.sha256(text.encode()).hexdigest())
    cached = put(house / "cache/corpora/little/input.txt", text)
    assert read_corpus("little", catalogue=[known]).source == str(cached)
    copy = put(house / "data/little/input.txt", text)
    assert read_corpus("little", catalogue=[known]).source == str(copy)
    assert known_corpora([known])[0].location == str(copy)


def test_any_folder_of_the_data_folder_is_a_name(house):
    put(house / "data/내-책/input.txt", "책\n")
    corpus = read_corpus("내-책")
    assert (corpus.name, corpus.text) == ("내-책", "책\n")


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/outside", ".hidden", "a/.."])
def test_names_do_not_leave_the_data_folder(house, name, monkeypatch):
    for inside in ("outside/input.txt", "data/input.txt", "data/.hidden/input.txt", "data/a/b"):
        put(house / inside, "secret")
    (house / "here/deep").mkdir()
    monkeypatch.chdir(house / "here/deep")  # where none of the names is a path by itself
    assert "there is no corpus, file or folder" in refusal(name)


def test_a_known_name_wins_over_a_file_and_says_so():
    put("python-docs", "mine")
    corpus = read_corpus("python-docs")
    assert corpus.source == "pydoc_data.topics"
    assert "./python-docs" in corpus.notes[0]
    assert read_corpus("./python-docs").text == "mine"
    assert read_corpus(Path("python-docs")).text == "mine"


@pytest.mark.parametrize(
    ("asked", "suggested"),
    [
        ("shakespear", "shakespeare"),
        ("Shakespeare", "shakespeare"),
        ("korean-novel", "korean-novels"),
        ("my-bok", "my-book"),
        ("nots.txt", "notes.txt"),
        ("folder/nots.txt", "folder/notes.txt"),
    ],
)
def test_a_name_that_is_nearly_right_is_suggested(house, asked, suggested):
    put(house / "data/my-book/input.txt", "text")
    put("notes.txt", "text")
    put("folder/notes.txt", "text")
    assert f"did you mean {suggested}?" in refusal(asked)


def test_a_name_like_no_other_gets_the_list():
    message = refusal("zzzzqqqq")
    assert "did you mean" not in message
    assert "python-docs, shakespeare, korean-novels" in message


# Files


def test_a_file_keeps_every_byte_of_its_text():
    text = "one\r\ntwo\rthree\n\u2028\u0085 é 각 😀"
    corpus = read_corpus(put("my book.txt", text))
    assert corpus.text == text
    assert corpus.name == "my-book"
    assert corpus.source == "my book.txt"
    assert corpus.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert corpus.notes == ()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("mybook.txt", "mybook"),
        ("소나기 (1953).txt", "소나기-1953"),
        ("hindi/हिन्दी.txt", "हिन्दी"),
        ("shelf/input.txt", "shelf"),
        ("../here/input.txt", "here"),
        (".profile", "profile"),
        ("@@@", "text"),
        ("a:b?c*d|e", "a-b-c-d-e"),
        ("x" * 120, "x" * 60),
        ("noextension", "noextension"),
    ],
)
def test_a_file_gives_a_name_that_is_safe_for_a_folder(path, name):
    put(path, "text")
    assert read_corpus("./" + path).name == name


@pytest.mark.parametrize(
    ("data", "encoding", "text", "note"),
    [
        (HANGUL.encode(), None, HANGUL, None),
        (HANGUL.encode("utf-8-sig"), None, HANGUL, "removed a byte order mark"),
        (HANGUL.encode("utf-8-sig"), "utf-8", HANGUL, "removed a byte order mark"),
        (HANGUL.encode("utf-16"), None, HANGUL, "read as UTF-16 (by its byte order mark)"),
        (
            b"\xfe\xff" + "é".encode("utf-16-be"),
            None,
            "é",
            "read as UTF-16 (by its byte order mark)",
        ),
        ("😀".encode("utf-32"), None, "😀", "read as UTF-32 (by its byte order mark)"),
        (HANGUL.encode("cp949"), "cp949", HANGUL, None),
        (HANGUL.encode("utf-16-le"), "utf-16-le", HANGUL, None),
        ("café".encode("latin-1"), "latin-1", "café", None),
    ],
)
def test_encodings(data, encoding, text, note):
    corpus = read_corpus(put("book", data), encoding=encoding)
    assert corpus.text == text
    assert corpus.notes == ((note,) if note else ())
    assert corpus.sha256 == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("data", "encoding", "named"),
    [
        (b"", None, ["book is empty"]),
        (b"\xef\xbb\xbf", None, ["book is empty"]),
        (b"abc\xffdef", None, ["0xff", "offset 3", "--encoding"]),
        (
            HANGUL.encode("cp949"),
            None,
            ["0xbe", "offset 0", "looks like cp949", "--encoding cp949"],
        ),
        (b"\x89PNG\r\n\x1a\n\0\0\0\r", None, ["is an image (PNG), not text", "tesseract"]),
        (b"plain\0text", None, ["NUL", "offset 5"]),
        ("hi".encode("utf-16-le"), None, ["NUL", "offset 1", "utf-16-le"]),
        (b"\xff\xfea", None, ["UTF-16", "0x61", "offset 2"]),
        (b"\xed\xa0\x80", None, ["0xed", "offset 0"]),  # a surrogate, written as if UTF-8
        (b"abc\xc3", None, ["0xc3", "offset 3"]),
        (HANGUL.encode(), "ascii", ["not ascii", "0xec", "utf-8"]),
        (b"a+2AA-", "utf-7", ["surrogate"]),
        (b"\\ud800", "unicode_escape", ["surrogate", "offset 0"]),
        (b"\xff\xfe\0\xd8", "utf-16", ["utf-16"]),
        (b"a-\xff", "punycode", ["not punycode"]),
    ],
)
def test_what_is_not_text_is_refused_by_place(data, encoding, named):
    message = refusal(put("book", data), encoding=encoding)
    assert [part for part in named if part not in message] == []
    assert "book" in message


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("utf9", "did you mean utf"),
        ("cp94", "did you mean cp949"),
        ("hex", "'hex'"),
        ("", "''"),
        ("a\0b", r"'a\x00b'"),
        ("\udc80", r"'\udc80'"),
        ("한글", "utf-8 or cp949"),
    ],
)
@pytest.mark.parametrize("corpus", ["python-docs", "folder"])
def test_an_encoding_nobody_knows_is_refused_before_reading(corpus, encoding, named):
    put("folder/a.txt", "text")
    assert named in refusal(corpus, ConfigError, encoding=encoding)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(), encoding=st.sampled_from([None, None, "utf-16", "utf-7", "cp949", "idna"]))
def test_any_bytes_are_text_or_one_clear_line(tmp_path_factory, data, encoding):
    path = put(tmp_path_factory.getbasetemp() / "any.txt", data)
    corpus, message = None, "any.txt"
    try:
        corpus = read_corpus(path, encoding=encoding)
    except DataError as error:
        message = str(error)
    assert "any.txt" in message
    assert message.isprintable()
    if corpus is not None:
        assert corpus.text
        assert "\0" not in corpus.text
        if encoding is None and not corpus.notes:
            assert corpus.text.encode() == data


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_string_is_a_corpus_or_one_clear_line(text):
    # "://" would go out to the network's libraries; the file system is wide enough here.
    name = text.replace(":", "").replace("-", "") + "\u2603"
    with pytest.raises(DataError) as raised:
        read_corpus(name)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("name", ["", "a\0b", "no\nsuch\nfile", "bad\udc80name", "x" * 300])
def test_strange_names_are_one_clear_line(name):
    assert refusal(name)


# What is in the way


def test_a_file_that_is_not_there():
    assert "no file or folder" in refusal(Path("gone.txt"))
    put("a-file", "text")
    assert "there is no corpus" in refusal("a-file/inside")


def test_a_link_to_nothing_and_a_link_to_itself():
    Path("nothing").symlink_to("gone.txt")
    Path("circle").symlink_to("circle")
    assert "a symbolic link to nothing" in refusal("nothing")
    assert os.strerror(errno.ELOOP) in refusal("circle")


def test_a_link_to_a_file_is_read():
    put("book.txt", "text")
    Path("link").symlink_to("book.txt")
    assert read_corpus("link").text == "text"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_does_not_block():
    os.mkfifo("pipe")
    assert "pipe it into standard input with -" in refusal("pipe")


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="this system has no /dev/fd")
def test_process_substitution_is_told_of_standard_input():
    reader, writer = os.pipe()
    try:
        assert "standard input with -" in refusal(f"/dev/fd/{reader}")
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_a_device_is_not_read():
    assert "/dev/zero is a device" in refusal("/dev/zero")


def test_a_socket_is_not_read(monkeypatch):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert "a device or a socket" in refusal("socket")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_or_folder_that_may_not_be_read():
    path = put("folder/secret.txt", "text")
    path.chmod(0)
    assert "Permission denied" in refusal(path)
    assert "secret.txt" in refusal("folder")
    path.parent.chmod(0)
    try:
        assert "Permission denied" in refusal("folder")
        assert "Permission denied" in refusal("folder/secret.txt")
    finally:
        path.parent.chmod(0o700)


# Folders


def test_a_folder_is_its_text_files_in_order_each_ending_its_line():
    put("shelf/b.txt", "b")
    put("shelf/a/z.txt", "z\n")
    put("shelf/a.txt", "a")
    put("shelf/empty.txt", "")
    put("shelf/c/deep/er.txt", "c, no end")
    corpus = read_corpus("shelf")
    assert corpus.text == "a\nz\nb\nc, no end"
    assert (corpus.name, corpus.source, corpus.notes) == ("shelf", "shelf", ())
    assert corpus.sha256 == hashlib.sha256(corpus.text.encode()).hexdigest()


def test_the_folder_we_are_in_has_its_own_name():
    put("a.txt", "a")
    assert read_corpus(".").name == "here"


def test_hidden_names_and_links_to_folders_are_left_alone():
    put("shelf/a.txt", "a\n")
    put("shelf/.hidden.txt", "no\n")
    put("shelf/.git/config", "no\n")
    Path("shelf/again").symlink_to(".", target_is_directory=True)
    put("elsewhere/b.txt", "no\n")
    Path("shelf/elsewhere").symlink_to("../elsewhere", target_is_directory=True)
    Path("shelf/linked.txt").symlink_to("../elsewhere/b.txt")
    assert read_corpus("shelf").text == "a\nno\n"


def test_what_is_not_text_in_a_folder_is_left_out_and_named():
    put("shelf/a.txt", "a\n")
    put("shelf/b.bin", b"\0\1")
    assert read_corpus("shelf").notes == ("skipped 1 file that is not text: b.bin",)
    put("shelf/c.png", b"\x89PNG")
    put("shelf/d/e.png", b"\x89PNG")
    put("shelf/f.png", b"\x89PNG")
    Path("shelf/z").symlink_to("z")
    corpus = read_corpus("shelf")
    assert corpus.text == "a\n"
    assert corpus.notes == ("skipped 5 files that are not text: b.bin, c.png, d/e.png and 2 more",)


def test_what_was_done_to_the_files_of_a_folder_is_counted():
    put("shelf/a.txt", b"\xef\xbb\xbfa\n")
    put("shelf/b.txt", b"\xef\xbb\xbfb\n")
    put("shelf/c.txt", "c".encode("utf-16"))
    corpus = read_corpus("shelf")
    assert corpus.text == "a\nb\nc"
    assert corpus.notes == (
        "removed a byte order mark (in 2 files)",
        "read as UTF-16 (by its byte order mark) (in 1 file)",
    )


def test_texts_in_other_encodings_are_told_from_what_is_no_text():
    french = "La forêt était sombre, et l'été déjà passé.\n"
    put("shelf/a.txt", "a\n")
    put("shelf/b.txt", HANGUL.encode("cp949"))
    put("shelf/c.txt", french.encode("cp1252"))
    put("shelf/d.txt", HANGUL.encode("cp949"))
    put("shelf/e.txt", HANGUL.encode()[:-3])
    put("shelf/f.bin", b"\0\1")
    put("shelf/g.pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3")
    corpus = read_corpus("shelf")
    assert corpus.text == "a\n"
    auto = "--encoding auto reads each file in its own encoding"
    assert corpus.notes == (
        f"skipped 2 files that look like cp949: b.txt, d.txt; {auto}",
        f"skipped 1 file that looks like cp1252: c.txt; {auto}",
        f"skipped 1 file that is UTF-8 but for a few bytes: e.txt; {auto}",
        "skipped 2 files that are not text: f.bin, g.pdf",
    )
    assert [(each.file, each.encoding) for each in corpus.skipped] == [
        ("b.txt", "cp949"),
        ("c.txt", "cp1252"),
        ("d.txt", "cp949"),
        ("e.txt", "utf-8:replace"),
        ("f.bin", None),
        ("g.pdf", None),
    ]
    assert "pdftotext" in corpus.skipped[-1].reason
    corpus = read_corpus("shelf", encoding="auto")
    cut = HANGUL.encode()[:-3].decode(errors="replace")
    assert corpus.text == "a\n" + HANGUL + french + HANGUL + cut
    assert corpus.notes == (
        "read as cp949, the likely encoding (in 2 files)",
        "read as cp1252, the likely encoding (in 1 file)",
        "U+FFFD replaces what is not utf-8 in 1 place (in 1 file)",
        "skipped 2 files that are not text: f.bin, g.pdf",
    )
    assert [name for _, name in corpus.files()] == ["a.txt", "b.txt", "c.txt", "d.txt", "e.txt"]
    assert [corpus.text[place] for place, _ in corpus.files()] == ["a", "안", "L", "안", "안"]


def test_all_files_that_were_skipped_are_listed_whatever_their_number():
    for number in range(40):
        put(f"shelf/{number:02}.txt", HANGUL.encode("cp949"))
    assert "skipped 40 files that look like cp949: 00.txt, 01.txt" in refusal("shelf")
    put("shelf/a.txt", "a\n")
    assert len(read_corpus("shelf").skipped) == 40


def test_a_name_that_is_not_utf8_is_read_and_shown():
    name = os.fsdecode(b"caf\xe9.txt")
    put(name, "text\n")
    put(Path("shelf", name), "text\n")
    put(Path("shelf", name + ".bin"), b"\0")
    corpus = read_corpus(name)
    assert corpus.text == "text\n"
    assert (corpus.name, corpus.source) == ("caf", r"'caf\udce9.txt'")
    folder = read_corpus("shelf")
    assert folder.notes == (r"skipped 1 file that is not text: 'caf\udce9.txt.bin'",)
    reference = path_reference(Path(name).resolve())
    assert reference.encode().endswith(b"/caf%E9.txt")
    assert read_corpus(reference).text == corpus.text
    assert path_reference(Path("a b.txt")) == "a b.txt"


def test_an_encoding_is_used_for_a_whole_folder():
    put("shelf/a.txt", HANGUL.encode("cp949"))
    put("shelf/b.txt", HANGUL.encode("cp949"))
    assert read_corpus("shelf", encoding="cp949").text == HANGUL * 2


def test_a_folder_without_text_is_refused():
    Path("shelf").mkdir()
    assert "found none" in refusal("shelf")
    put("shelf/b.bin", b"\0\1")
    assert "found none (skipped 1 file that is not text: b.bin)" in refusal("shelf")
    put("shelf/empty.txt", "")
    assert "found none (skipped 1" in refusal("shelf")


# Standard input


class Pipe:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_standard_input_is_bytes_like_any_other(monkeypatch):
    monkeypatch.setattr(sys, "stdin", Pipe("\ufeffone\r\ntwo".encode()))
    corpus = read_corpus("-")
    assert (corpus.name, corpus.source) == ("stdin", "standard input")
    assert corpus.text == "one\r\ntwo"
    assert corpus.notes == ("removed a byte order mark",)
    monkeypatch.setattr(sys, "stdin", Pipe(HANGUL.encode("cp949")))
    assert read_corpus("-", encoding="cp949").text == HANGUL


def test_standard_input_that_is_none(monkeypatch):
    monkeypatch.setattr(sys, "stdin", Pipe(b""))
    assert "standard input is empty" in refusal("-")
    closed = Pipe(b"")
    closed.buffer.close()
    monkeypatch.setattr(sys, "stdin", closed)
    assert "cannot read standard input" in refusal("-")
    monkeypatch.setattr(sys, "stdin", None)
    assert "there is no standard input" in refusal("-")


# The network, on this machine

BODY = ("To be, or not to be.\n" * 5_000).encode()


class Server(ThreadingHTTPServer):
    """Answers as ``plan`` says, one status a request (the last for ever), and counts GETs."""

    daemon_threads = True
    plan: list[int | str]
    gets: int


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        step = self.server.plan[min(self.server.gets, len(self.server.plan) - 1)]
        self.server.gets += 1
        self.send_response(step if isinstance(step, int) else 200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        body = BODY[::-1] if step == "other" else BODY
        self.wfile.write(body[:1000] if step == "cut" else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server(("127.0.0.1", 0), Handler)
    server.plan, server.gets = [200], 0
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def little(server):
    """A corpus whose address is the server's."""
    return KnownCorpus(
        "little",
        "a test's own",
        sha256=hashlib.sha256(BODY).hexdigest(),
        url=f"http://127.0.0.1:{server.server_port}/little.txt",
    )


def in_cache(house: Path) -> list[str]:
    return sorted(p.relative_to(house / "cache").as_posix() for p in (house / "cache").rglob("*.*"))


CACHED = ["corpora/little/input.txt"]


def test_a_known_corpus_is_downloaded_once(house, server, little):
    told = []
    corpus = read_corpus("little", catalogue=[little], on_progress=lambda *now: told.append(now))
    assert corpus.text == BODY.decode()
    assert (corpus.name, corpus.sha256) == ("little", little.sha256)
    assert corpus.source == str(house / "cache" / CACHED[0])
    assert told[-1] == (len(BODY), len(BODY))
    assert in_cache(house) == CACHED
    assert read_corpus("little", catalogue=[little]) == corpus
    assert server.gets == 1


@pytest.mark.parametrize("failure", [503, "cut"])
def test_a_failing_download_is_tried_again(house, server, little, failure):
    server.plan = [failure, 200]
    assert read_corpus("little", catalogue=[little]).text == BODY.decode()
    assert server.gets == 2
    assert in_cache(house) == CACHED


@pytest.mark.parametrize(
    "case",
    [
        (404, 1, "nothing at that address"),
        (403, 1, "403"),
        (500, 4, "500"),
        ("cut", 4, "payload"),
        ("other", 1, "does not have the sha256"),
    ],
)
def test_a_download_that_fails_leaves_nothing_behind(house, server, little, case):
    answer, gets, named = case
    server.plan = [answer]
    message = refusal("little", catalogue=[little])
    assert named in message
    assert f"get {little.url} and put it at {house / 'data/little/input.txt'}" in message
    assert server.gets == gets
    assert in_cache(house) == []


def test_offline_is_one_line_that_says_where_to_put_the_file(house, server, little, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/input.txt"
        monkeypatch.delenv("HORNBOOK_DATA_DIR")
        message = refusal("little", catalogue=[replace(little, url=closed)])
    assert message.startswith("cannot download little (")
    assert closed in message
    assert str(house / "cache/corpora/little/input.txt") in message
    assert in_cache(house) == []


def test_a_damaged_copy_in_the_cache_is_downloaded_again(house, server, little):
    cached = put(house / "cache" / CACHED[0], BODY[:100])
    os.link(cached, house / "reader")
    assert read_corpus("little", catalogue=[little]).text == BODY.decode()
    assert cached.read_bytes() == BODY
    # A process that was reading the old file still has it whole: it was replaced, not rewritten.
    assert (house / "reader").read_bytes() == BODY[:100]


def test_a_failing_download_leaves_the_old_copy_alone(house, server, little):
    cached = put(house / "cache" / CACHED[0], b"old")
    server.plan = ["other"]
    refusal("little", catalogue=[little])
    assert cached.read_bytes() == b"old"
    assert in_cache(house) == CACHED


def test_a_cache_that_cannot_be_written_is_named(house, little, monkeypatch):
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(put("a-file", "text").absolute()))
    assert "set HORNBOOK_CACHE_DIR" in refusal("little", catalogue=[little])


def test_a_url_is_read_like_a_file(server):
    told = []
    url = f"http://127.0.0.1:{server.server_port}/shelf/my%20book.txt?raw=1"
    corpus = read_corpus(url, on_progress=lambda *now: told.append(now))
    assert corpus.text == BODY.decode()
    assert corpus.source == url.replace("raw=1", "***")
    assert corpus.name == "my-book"
    assert told[-1] == (len(BODY), len(BODY))


def test_urls_of_other_kinds_go_through_fsspec(house):
    put("shelf/input.txt", HANGUL.encode("cp949"))
    url = (house / "here/shelf/input.txt").as_uri()
    corpus = read_corpus(url, encoding="cp949")
    assert (corpus.name, corpus.text) == ("shelf", HANGUL)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("nosuch://a/b", "Protocol not known"),
        ("http://[bad", "Invalid"),
        ("://", "cannot download"),
        ("file:///no/such/file.txt", "nothing at that address"),
        ("file:///", "folder"),
    ],
)
def test_a_url_that_cannot_be_read_is_one_clear_line(url, named):
    message = refusal(url)
    assert named in message
    assert url in message


def test_a_url_that_answers_with_an_error(server):
    server.plan = [404]
    assert "nothing at that address" in refusal(f"http://127.0.0.1:{server.server_port}/x")


def test_reading_text_needs_no_heavy_library():
    script = (
        "import sys, hornbook.text.corpus as t; t.load_text()\n"
        "heavy = {'torch', 'numpy', 'fsspec', 'aiohttp', 'charset_normalizer', 'tokenizers'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
