import hashlib
import http.server
import multiprocessing
import os
import socket
import threading
from pathlib import Path

import pytest

from sdgan_ext.data.download import DEFAULT_MIRRORS, MNIST_MD5, cache_root, download_mnist

FILES = {
    "train-images-idx3-ubyte.gz": os.urandom(200_000),
    "train-labels-idx1-ubyte.gz": os.urandom(3_000),
    "t10k-images-idx3-ubyte.gz": os.urandom(50_000),
    "t10k-labels-idx1-ubyte.gz": os.urandom(10),
}
MD5 = {name: hashlib.md5(contents).hexdigest() for name, contents in FILES.items()}
BIG = "train-images-idx3-ubyte.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    """The first part of the path says how to behave; each request is noted in the server's ``seen``."""

    def do_GET(self):
        _, behaviour, name = self.path.split("/")
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.server.seen.append((behaviour, name, start))
        body = FILES[name]
        if behaviour == "refuses":
            return self.send_error(404)
        if behaviour == "busy":
            return self.send_error(503)
        if behaviour == "hangs_up":
            return self.connection.shutdown(socket.SHUT_RDWR)
        if behaviour == "stalls":
            return self.server.release.wait(20)
        if behaviour == "corrupts":
            body = bytes(byte ^ 1 for byte in body)
        if behaviour == "login_page":
            body = b"<html>please log in</html>"
        if behaviour == "ignores_range":
            start = 0
        if start and start >= len(body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        first = start + 1 if behaviour == "wrong_range" else start
        if start:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        body = body[start:]
        self.wfile.write(body[: len(body) // 2] if behaviour == "truncates" else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.release = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def get(server, tmp_path):
    root = tmp_path / "mnist"

    def get(*behaviours, timeout=10.0):
        mirrors = [f"http://127.0.0.1:{server.server_port}/{behaviour}/" for behaviour in behaviours]
        assert download_mnist(root, mirrors, timeout, md5=MD5) == root
        assert {name: (root / name).read_bytes() for name in FILES} == FILES
        assert not list(root.glob("*.part"))

    get.root = root
    return get


def starts(server, name=BIG):
    return [(behaviour, start) for behaviour, seen, start in server.seen if seen == name]


def test_all_four(get, server):
    get("good")
    assert [name for _, name, _ in server.seen] == list(FILES)


def test_good_files_are_kept(get, server):
    get("good")
    get("refuses")
    get()
    assert len(server.seen) == 4


def test_a_read_only_folder_of_good_files_will_do(get):
    get("good")
    (get.root / ".download.lock").unlink()
    get.root.chmod(0o555)
    try:
        get("refuses")
    finally:
        get.root.chmod(0o755)
    assert not (get.root / ".download.lock").exists()


def test_a_bad_file_is_replaced(get, server):
    get("good")
    (get.root / BIG).write_bytes(b"damaged")
    get("good")
    assert len(server.seen) == 5


@pytest.mark.parametrize(
    "behaviour", ["refuses", "busy", "hangs_up", "corrupts", "login_page", "truncates", "wrong_range"]
)
def test_falls_through_to_the_next_mirror(get, server, behaviour):
    get(behaviour, "good")
    assert starts(server)[0] == (behaviour, 0)


def test_nobody_listens(get):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with pytest.raises(ValueError, match="refused"):
            download_mnist(get.root, [dead], 5, md5=MD5)


def test_a_silent_mirror_times_out(get, refused):
    with refused("did not answer in time"):
        get("stalls", timeout=0.2)


def test_truncated_goes_on_at_the_next_mirror(get, server):
    get("truncates", "good")
    assert starts(server) == [("truncates", 0), ("good", 100_000)]


def test_truncated_goes_on_at_the_next_call(get, server, refused):
    with refused("broke off"):
        get("truncates")
    assert (get.root / f"{BIG}.part").read_bytes() == FILES[BIG][:100_000]
    assert not (get.root / BIG).exists()
    get("good")
    assert starts(server) == [("truncates", 0), ("good", 100_000)]


def test_a_mirror_that_ignores_range(get, server):
    get("truncates", "ignores_range")
    assert starts(server)[1] == ("ignores_range", 100_000)


def test_a_mirror_that_answers_with_another_range(get, server):
    get("truncates", "wrong_range", "good")
    assert starts(server) == [("truncates", 0), ("wrong_range", 100_000), ("good", 100_000)]


@pytest.mark.parametrize("left", [b"wrong beginning", bytes(300_000)], ids=["short", "longer than the file"])
def test_a_wrong_beginning_is_dropped(get, server, left):
    get.root.mkdir()
    (get.root / f"{BIG}.part").write_bytes(left)
    get("good")
    assert starts(server) == [("good", len(left)), ("good", 0)]


def test_a_whole_part_needs_no_transfer(get, server):
    get.root.mkdir()
    (get.root / f"{BIG}.part").write_bytes(FILES[BIG])
    get("good")
    assert starts(server) == []


def test_corrupt_data_leaves_nothing_behind(get, refused):
    with refused("md5"):
        get("corrupts")
    assert [path.name for path in get.root.iterdir()] == [".download.lock"]


def test_when_all_fail_it_says_why_and_what_to_do(get, refused):
    with refused(BIG, "refuses/: HTTP 404", "corrupts/: its md5 is wrong", "--data FOLDER", "--data digits"):
        get("refuses", "corrupts")
    with refused("no mirror given"):
        get()
    with refused("not a mirror", "unknown url type"):
        download_mnist(get.root, ["not a mirror"], md5=MD5)


def test_a_folder_that_cannot_be_made(tmp_path, refused):
    (tmp_path / "file").write_text("in the way")
    with refused("cannot write", "SDGAN_DATA", "--data digits"):
        download_mnist(tmp_path / "file" / "mnist", [], md5=MD5)


def _download(root, mirror):
    download_mnist(root, [mirror], md5=MD5)


@pytest.mark.skipif(os.name != "posix", reason="locks between processes need fcntl")
def test_two_processes_take_turns(get, server):
    context = multiprocessing.get_context("fork")
    mirror = f"http://127.0.0.1:{server.server_port}/good/"
    both = [context.Process(target=_download, args=(get.root, mirror)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
    assert [process.exitcode for process in both] == [0, 0]
    get()
    assert len(server.seen) == 4


def test_defaults(monkeypatch):
    assert len(MNIST_MD5) == 4 and len(DEFAULT_MIRRORS) >= 2 and all(m.startswith("https://") for m in DEFAULT_MIRRORS)
    monkeypatch.delenv("SDGAN_DATA", raising=False)
    assert cache_root() == Path.home() / ".cache" / "sdgan_ext"
    monkeypatch.setenv("SDGAN_DATA", "~/elsewhere")
    assert cache_root() == Path.home() / "elsewhere"


def test_real_files_need_no_network(real_data):
    assert download_mnist(real_data / "mnist", mirrors=()) == real_data / "mnist"
