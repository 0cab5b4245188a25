"""A log followed from plain files: from Python's own file server, as anybody would serve an export.

Most rows lay out the files of a log this process keeps and drive a follower by hand; the last ones
are the real thing: a store, `log export`, `python -m http.server` and a daemon as processes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from control_plane import ControlPlaneClient
from control_plane.cli.children import Child
from control_plane.errors import EpochMoved, Forked, RolledBack, StoreUnreachable, TokenRefused
from control_plane.log.checkpoint import Checkpoint, LogSigner
from control_plane.log.merkle import leaf_hash
from control_plane.log.tiles import TILE_WIDTH, encode_entries, tile_path
from control_plane.publish.client import StoreClient
from control_plane.publish.keyfiles import create_trust
from control_plane.publish.publisher import Publisher
from control_plane.publish.static_log import export, hash_tiles
from control_plane.replica.format import FLAG, record_key
from control_plane.replica.header import HELD, REJECTED, STALE
from control_plane.trust.enrolment import Enrolment
from control_plane_daemon import static_source
from control_plane_daemon.source import StoreSource
from control_plane_daemon.static_source import StaticSource, StoreOrFiles

PILOT = record_key(FLAG, "pilot")
COMMAND = ("-m", "control_plane")


class Handler(SimpleHTTPRequestHandler):
    """Python's file server, which notes what it is asked and can be told to answer otherwise."""

    server: Any

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.server.answer is None or not self.server.answer(self):
            super().do_GET()

    def say(self, status: int, body: bytes = b"", **headers: str) -> bool:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return True

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A file server that remembers; ``answer`` says whether it answered instead."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: list[str] = []
        self.answer: Callable[[Any], bool] | None = None


class Files:
    """A folder of plain files and the server that has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.below = folder / "production" / "1"
        self._server = Server(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def asked(self) -> list[str]:
        return self._server.asked

    def answer(self, answer: Callable[[Any], bool] | None) -> None:
        """Answer so where the callable returns true."""
        self._server.answer = answer

    def lay_out(self, log: Any, size: int | None = None, *, blobs: bool = True) -> None:
        """Write what an export of the log's first entries writes; other files stay."""
        leaves = log.leaves[:size]
        for start in range(0, len(leaves), TILE_WIDTH):
            bundle = leaves[start : start + TILE_WIDTH]
            self.write(
                tile_path("entries", start // TILE_WIDTH, len(bundle)), encode_entries(bundle)
            )
        for path, data in hash_tiles(list(map(leaf_hash, leaves))):
            self.write(path, data)
        for digest, data in log.blobs.items() if blobs else ():
            self.write(f"blob/sha256/{digest}", data)
        self.write("checkpoint", log.checkpoint(size))

    def write(self, path: str, data: bytes) -> None:
        (self.below / path).parent.mkdir(parents=True, exist_ok=True)
        (self.below / path).write_bytes(data)

    def begin_epoch(self, log: Any, epoch: int) -> None:
        """Write the checkpoint of another epoch of the log."""
        origin = f"a/production/{epoch}"
        signer = LogSigner(origin, log.trust.log_key("production"))
        place = self.folder / "production" / str(epoch)
        place.mkdir()
        note = signer.sign_checkpoint(Checkpoint(origin, 2, bytes(32)), 1_700_000_000)
        (place / "checkpoint").write_bytes(note)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Time:
    """A monotonic clock that sleeping moves."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.slept: list[float] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def __call__(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds
        self.meanwhile()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    (tmp_path / "www").mkdir()
    made = Files(tmp_path / "www")
    yield made
    made.close()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def source(files: Files, time: Time) -> AsyncIterator[StaticSource]:
    async with StoreSource(files.url, "production", None) as server:
        yield StaticSource(server, "production", monotonic=time, sleep=time.sleep)


async def take(node: Any, source: StaticSource, wait_seconds: int = 0) -> Any:
    """One round of the daemon's loop, by hand; a refusal is told to the follower."""
    follower = node.follower
    followed = await source.follow(1, follower.position.size, wait_seconds)
    try:
        verified = follower.check(followed)
    except (Forked, RolledBack) as error:
        follower.refuse(followed, error)
        raise
    while not (progress := follower.take(verified)).done:
        wanted = [progress.required] if progress.required else progress.wanted
        follower.deliver(await source.fetch(1, wanted, 0.2))
    node.opened.show_when_ready(follower)
    return followed


async def catch_up(node: Any, source: StaticSource) -> None:
    while (await take(node, source)).more:
        pass


def left(node: Any) -> tuple[Any, ...]:
    return node.records(), node.table("heads"), node.follower.position, node.generation


@pytest.fixture(scope="module")
def kills() -> int:
    """Enough entries for two full tiles and a part of a third."""
    return 2 * TILE_WIDTH + 40


# Entries


async def test_a_long_log_is_taken_in_parts_and_a_full_tile_asked_for_once(
    files: Files, source: StaticSource, log: Any, node: Any, kills: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr(static_source, "BUNDLES_A_PART", 1)
    for number in range(kills):
        log.kill(f"k{number}")
    files.lay_out(log)
    await catch_up(node, source)
    assert node.generation == kills + 1
    assert len(node.records()) == kills
    asked = Counter(path for path in files.asked if "/tile/" in path)
    assert sum("/tile/entries/" in path for path in asked) == 3
    assert any("/tile/0/" in path for path in asked), "no proof was made"
    assert {asked[path] for path in asked if ".p/" not in path} == {1}
    # A partial tile is read for each of the two parts that need a proof.
    assert max(asked.values()) == 2


async def test_a_log_that_grows_changes_its_partial_tiles_and_is_followed(
    files: Files, source: StaticSource, log: Any, node: Any
) -> None:
    for size in (1, 7, TILE_WIDTH - 1, TILE_WIDTH, TILE_WIDTH + 3):
        while len(log.leaves) < size:
            log.kill(f"k{len(log.leaves)}")
        files.lay_out(log)
        await catch_up(node, source)
        assert node.generation == size
        assert node.follower.position.checkpoint == log.checkpoint()
    bundles = [path.partition("entries/")[2] for path in files.asked if "entries" in path]
    assert bundles == ["000.p/1", "000.p/7", "000.p/255", "000", "001.p/3"]


async def test_a_partial_tile_that_gave_way_to_the_full_one_is_read_from_it(
    files: Files, source: StaticSource, log: Any, node: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(static_source, "BUNDLES_A_PART", 1)
    for number in range(TILE_WIDTH + 20):
        log.kill(f"k{number}")
    files.lay_out(log)
    note = log.checkpoint(TILE_WIDTH + 5)
    while len(log.leaves) < 2 * TILE_WIDTH:
        log.kill(f"k{len(log.leaves)}")
    files.lay_out(log)
    for partial_tiles in list(files.below.rglob("*.p")):
        shutil.rmtree(partial_tiles)
    files.write("checkpoint", note)
    await catch_up(node, source)
    assert node.generation == TILE_WIDTH + 5


@pytest.mark.parametrize("tile", ["tile/entries/000", "tile/0/001.p/44"])
async def test_a_tile_with_other_bytes_is_refused_and_read_again_once_it_is_mended(
    files: Files, source: StaticSource, log: Any, node: Any, monkeypatch: Any, tile: str
) -> None:
    monkeypatch.setattr(static_source, "BUNDLES_A_PART", 1)
    files.lay_out(log)
    await catch_up(node, source)
    while len(log.leaves) < TILE_WIDTH + 44:
        log.kill(f"k{len(log.leaves)}")
    files.lay_out(log)
    data = (files.below / tile).read_bytes()
    files.write(tile, data[:-1] + bytes([data[-1] ^ 1]))
    before = left(node)
    for _ in range(2):
        with pytest.raises(Forked, match="expected our history to lead to root"):
            await catch_up(node, source)
    assert left(node) == before
    assert node.state & REJECTED
    files.write(tile, data)
    await catch_up(node, source)
    assert node.generation == TILE_WIDTH + 44
    assert not node.state & REJECTED


OUT_OF_FORM = {
    "a bundle cut off": ("tile/entries/000.p/2", lambda data: data[:-1]),
    "a bundle that lacks an entry": (
        "tile/entries/000.p/2", lambda data: data[: 2 + int.from_bytes(data[:2], "big")],
    ),
    "no bundle": ("tile/entries/000.p/2", None),
    "a page for a checkpoint": ("checkpoint", lambda data: b"<!doctype html>"),
    "half a checkpoint": ("checkpoint", lambda data: data[:40]),
    "no checkpoint": ("checkpoint", None),
}  # fmt: skip


@pytest.mark.parametrize("name", OUT_OF_FORM)
async def test_a_file_out_of_form_or_not_there_is_no_answer(
    files: Files, source: StaticSource, log: Any, node: Any, flag: Any, name: str
) -> None:
    files.lay_out(log)
    await catch_up(node, source)
    log.put(flag())
    files.lay_out(log)
    path, damage = OUT_OF_FORM[name]
    data = (files.below / path).read_bytes()
    if damage is None:
        (files.below / path).unlink()
    else:
        files.write(path, damage(data))
    before = left(node)
    with pytest.raises(StoreUnreachable, match="expected"):
        await catch_up(node, source)
    assert left(node) == before
    assert not node.state & REJECTED
    files.write(path, data)
    await catch_up(node, source)
    assert node.generation == 2


async def test_an_export_that_went_backwards_is_refused_and_followed_when_it_is_back(
    files: Files, source: StaticSource, log: Any, node: Any, flag: Any, time: Time
) -> None:
    log.put(flag())
    log.put(flag(default="on"))
    files.lay_out(log)
    await catch_up(node, source)
    before = left(node)
    files.lay_out(log, 2)
    for _ in range(2):
        with pytest.raises(RolledBack, match="expected a size of at least 3, found 2"):
            await take(node, source, wait_seconds=20)
    assert time.slept == []
    assert left(node) == before
    assert node.state & REJECTED
    log.kill("pilot")
    files.lay_out(log)
    await catch_up(node, source)
    assert node.generation == 4
    assert not node.state & REJECTED


# Blobs


@pytest.mark.parametrize("lie", ["other bytes", "not there"])
async def test_a_blob_that_cannot_be_had_is_held_until_it_can(
    files: Files, source: StaticSource, log: Any, node: Any, flag: Any, lie: str
) -> None:
    log.put(flag())
    change = log.change(flag(default="on"))
    log.submit(change)
    files.lay_out(log, 2)
    await catch_up(node, source)
    path = files.below / "blob" / "sha256" / change.digest
    files.lay_out(log)
    data = path.read_bytes()
    if lie == "other bytes":
        path.write_bytes(data.replace(b"pilot", b"p1lot"))
    else:
        path.unlink()
    before = node.record(PILOT).body
    await catch_up(node, source)
    assert node.record(PILOT).body == before
    assert node.generation == 3
    assert node.state & HELD
    path.write_bytes(data)
    missing = node.follower.held_missing()
    fetched = await source.fetch(1, missing, 0.0)
    assert node.follower.heal(fetched.found) == 1
    assert node.record(PILOT).served_generation == 3
    assert not node.state & HELD


# Waiting


async def test_a_wait_ends_with_the_first_entry_and_looks_every_two_seconds(
    files: Files, source: StaticSource, log: Any, node: Any, time: Time
) -> None:
    files.lay_out(log)
    await catch_up(node, source)

    def publish() -> None:
        if time.seconds == 6.0:
            log.kill("late")
            files.lay_out(log)

    time.meanwhile = publish
    await take(node, source, wait_seconds=20)
    assert node.generation == 2
    assert time.slept == [2.0, 2.0, 2.0]
    time.slept.clear()
    await take(node, source, wait_seconds=5)
    assert time.slept == [2.0, 2.0, 1.0]


async def test_a_checkpoint_that_is_not_renewed_is_stale_until_it_is(
    files: Files, source: StaticSource, log: Any, node: Any, clock: Any, time: Time
) -> None:
    files.lay_out(log)
    await catch_up(node, source)
    assert not node.state & STALE
    clock.ms += 61_000
    await take(node, source, wait_seconds=20)
    assert node.state & STALE
    assert time.seconds == 20.0
    time.meanwhile = lambda: files.lay_out(log)
    await take(node, source, wait_seconds=20)
    assert not node.state & STALE
    assert time.seconds == 22.0


async def test_an_unmodified_checkpoint_is_believed_for_ten_seconds(
    files: Files, source: StaticSource, log: Any, node: Any, time: Time
) -> None:
    files.lay_out(log)
    conditions: list[str | None] = []

    def tagged(request: Any) -> bool:
        if not request.path.endswith("/1/checkpoint"):
            return False
        conditions.append(request.headers["If-None-Match"])
        if conditions[-1] is not None:
            return bool(request.say(304))
        return bool(request.say(200, (files.below / "checkpoint").read_bytes(), ETag='"a"'))

    files.answer(tagged)
    await catch_up(node, source)
    log.kill("x")
    files.lay_out(log)
    await take(node, source, wait_seconds=20)
    # The tag never changes, as one made of time and length may not: at ten seconds all is read.
    assert conditions == [None, '"a"', '"a"', '"a"', '"a"', '"a"', None]
    assert node.generation == 2


# Epochs


async def test_a_later_epoch_is_looked_for_at_the_end_of_a_log_seen_first(
    files: Files, source: StaticSource, log: Any
) -> None:
    log.kill("x")
    files.lay_out(log)
    files.begin_epoch(log, 3)
    files.begin_epoch(log, 5)
    assert len((await source.follow(1, 0, 0)).batch.leaves) == 2
    with pytest.raises(EpochMoved) as moved:
        await source.follow(1, 2, 20)
    assert moved.value.epoch == 5
    # An epoch number that was skipped says where the log goes on, as a store does.
    with pytest.raises(EpochMoved) as moved:
        await source.follow(2, 0, 0)
    assert moved.value.epoch == 5


async def test_a_later_epoch_is_found_a_minute_after_the_last_renewal_and_not_before(
    files: Files, source: StaticSource, log: Any, time: Time
) -> None:
    files.lay_out(log)
    await source.follow(1, 1, 0)
    files.begin_epoch(log, 2)
    log.clock.ms += 10_000
    files.lay_out(log)
    time.seconds = 30.0
    await source.follow(1, 1, 20)
    files.asked.clear()
    await source.follow(1, 1, 20)
    await source.follow(1, 1, 20)
    assert not [path for path in files.asked if path.startswith("/production/2/")]
    with pytest.raises(EpochMoved):
        await source.follow(1, 1, 20)
    assert time.seconds == 90.0


async def test_a_node_ahead_of_where_an_epoch_ended_hears_of_the_next_and_of_no_rollback(
    files: Files, source: StaticSource, log: Any, time: Time
) -> None:
    log.kill("kept")
    log.kill("lost")
    files.lay_out(log)
    await source.follow(1, 3, 0)
    files.lay_out(log, 2)
    files.begin_epoch(log, 2)
    files.asked.clear()
    # As the loop does while it waits for consent; the files are looked for once.
    for _ in range(4):
        with pytest.raises(EpochMoved) as moved:
            await source.follow(1, 3, 20)
        assert moved.value.epoch == 2
        time.seconds += 2.0
    assert files.asked.count("/production/2/checkpoint") == 1
    shutil.rmtree(files.folder / "production" / "2")
    time.seconds += 10.0
    assert (await source.follow(1, 3, 20)).batch.checkpoint == log.checkpoint(2)


async def test_what_is_no_checkpoint_of_that_epoch_is_no_later_epoch(
    files: Files, source: StaticSource, log: Any, time: Time
) -> None:
    files.lay_out(log)
    shutil.copytree(files.below, files.folder / "production" / "2")
    (files.folder / "production" / "3").mkdir()
    (files.folder / "production" / "3" / "checkpoint").write_bytes(b"<!doctype html>")
    for _ in range(8):
        await source.follow(1, 1, 20)
    looks = [path for path in files.asked if "/production/1/" not in path]
    assert len(looks) <= 3 * 16
    assert set(looks) == {f"/production/{epoch}/checkpoint" for epoch in (2, 3, 4)}


# A store, or files


async def test_a_server_that_wants_a_token_is_told_so(
    files: Files, source: StaticSource, log: Any
) -> None:
    files.lay_out(log)
    files.answer(lambda request: bool(request.say(401)))
    with pytest.raises(TokenRefused, match="expected a token that may follow production"):
        await source.follow(1, 0, 0)


@asynccontextmanager
async def chosen(url: str) -> AsyncIterator[StoreOrFiles]:
    async with StoreOrFiles(url, "production", None) as source:
        yield source


async def test_files_are_followed_where_no_store_answers(files: Files, log: Any) -> None:
    async with chosen(files.url) as source:
        with pytest.raises(StoreUnreachable, match="expected a store, or /production/1/checkpoint"):
            await source.follow(1, 0, 0)
        files.lay_out(log)
        assert len((await source.follow(1, 0, 0)).batch.leaves) == 1
        await source.follow(1, 1, 0)
        asked = [path for path in files.asked if path.startswith("/v1/")]
        assert len(asked) == 2, "once files were found the store is not asked for"
        fetched = await source.fetch(1, ["0" * 64], 5.0)
        assert fetched.gone == {"0" * 64}


async def test_a_store_that_refuses_is_not_taken_for_files(files: Files, log: Any) -> None:
    files.lay_out(log)
    refusal = json.dumps({"format": 1, "code": "not_found", "message": "no such epoch"}).encode()
    files.answer(lambda request: bool(request.say(404, refusal)))
    async with chosen(files.url) as source:
        with pytest.raises(StoreUnreachable, match="expected status 200 at /v1/production/follow"):
            await source.follow(1, 0, 0)
    assert files.asked == ["/v1/production/follow?epoch=1&size=0&wait=0"]


async def test_a_store_where_files_were_is_followed(files: Files, served: Any, log: Any) -> None:
    files.lay_out(log)
    async with chosen(files.url) as source:
        await source.follow(1, 0, 0)
        files.answer(
            lambda request: bool(
                request.say(200, served.packed(0)) if "/v1/" in request.path else request.say(500)
            )
        )
        with pytest.raises(StoreUnreachable):
            await source.follow(1, 0, 0)
        followed = await source.follow(1, 0, 0)
    assert followed.batch.leaves == tuple(log.leaves)
    assert followed.blobs


# The real thing


class Exported:
    """A store process, and the export of its log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        create_trust(folder, installation="a", environments=["production"])
        _run(
            "store", "init", "--database", folder / "store.sqlite3", "--trust", folder / "trust",
            "--keys", folder / "keys", "--enrolment", folder / "trust.json",
            "--tokens", folder / "tokens",
        )  # fmt: skip
        self.store = Child(
            "store",
            [
                *COMMAND, "store", "--database", str(folder / "store.sqlite3"),
                "--keys", str(folder / "keys"), "--listen", f"unix:{folder / 's'}",
            ],
        )  # fmt: skip
        self.url = self.store.line("store ready at ").split()[3]
        self.www = folder / "www"

    def token(self, may: str) -> str:
        return (self.folder / "tokens" / f"{may}.token").read_text().strip()

    def publish(self, *fills: Callable[[Any], object]) -> int:
        key = str(self.folder / "keys" / "author.pem")
        with Publisher(self.url, key, token=self.token("submit")) as publisher:
            for fill in fills:
                change = publisher.change("production", "a test")
                fill(change)
                generation = publisher.submit(change)[-1].generation
        assert generation is not None
        return generation

    def begin_epoch(self) -> None:
        """Let the log go on in a new epoch."""
        folder = self.folder
        _run(
            "log", "new-epoch", "-e", "production", "--directory", folder,
            "--enrolment", folder / "trust.json", "--store", self.url,
            "--token-file", folder / "tokens" / "submit.token",
            "--key", folder / "keys" / "root.pem",
        )  # fmt: skip

    def export(self) -> None:
        enrolment = Enrolment.decode((self.folder / "trust.json").read_bytes())
        with StoreClient(self.url, self.token("follow")) as client:
            export(client, "production", enrolment, self.www)

    def daemon(self, url: str, root: Path) -> Child:
        return Child(
            "daemon",
            [
                *COMMAND, "daemon", "--store", url, "--trust", str(self.folder / "trust.json"),
                "--replica", str(root), "-e", "production",
            ],
        )  # fmt: skip


def _run(*arguments: object) -> None:
    subprocess.run(
        [sys.executable, *COMMAND, *map(str, arguments)], check=True, capture_output=True
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    made = Exported(tmp_path_factory.mktemp("i"))
    yield made
    made.store.stop()


@contextmanager
def file_server(folder: Path, port: str = "0") -> Iterator[str]:
    """``python -m http.server`` as a process; its port."""
    arguments = ["-m", "http.server", port, "--bind", "127.0.0.1", "--directory", str(folder)]
    with Child("files", arguments, stderr=subprocess.DEVNULL) as server:  # type: ignore[arg-type]
        yield server.line("Serving HTTP on ").split(" port ")[1].split()[0]


def test_a_daemon_follows_an_export_on_a_plain_file_server(
    exported: Exported, tmp_path: Path, flag: Any
) -> None:
    exported.publish(lambda change: change.put(flag("pilot", default="on")))
    exported.export()
    with file_server(exported.www) as port:
        url = f"http://127.0.0.1:{port}"
        with exported.daemon(url, tmp_path) as daemon:
            daemon.line("daemon ready: ")
            with ControlPlaneClient(str(tmp_path), "production") as client:
                assert client.is_enabled("pilot")
                generation = exported.publish(
                    lambda change: change.kill("pilot", None), lambda change: change.put(flag("b"))
                )
                exported.export()
                client.wait_for(generation, timeout_seconds=20)
                assert not client.is_enabled("pilot")


def test_a_file_server_that_dies_and_comes_back_is_followed_again(
    exported: Exported, tmp_path: Path, flag: Any
) -> None:
    exported.publish(lambda change: change.put(flag("lasting", default="on")))
    exported.export()
    with ControlPlaneClient(str(tmp_path), "production") as client:
        with file_server(exported.www) as port:
            daemon = exported.daemon(f"http://127.0.0.1:{port}", tmp_path)
            daemon.line("daemon ready: ")
        with daemon:
            assert client.is_enabled("lasting")
            generation = exported.publish(lambda change: change.put(flag("lasting")))
            exported.export()
            assert client.is_enabled("lasting")
            with file_server(exported.www, port):
                client.wait_for(generation, timeout_seconds=20)
                assert not client.is_enabled("lasting")


def test_a_new_node_reads_a_log_through_its_epochs_from_plain_files(
    exported: Exported, tmp_path: Path, flag: Any
) -> None:
    exported.publish(lambda change: change.put(flag("early", default="on")))
    first = (exported.folder / "trust.json").read_bytes()
    exported.begin_epoch()
    generation = exported.publish(lambda change: change.put(flag("late", default="on")))
    exported.export()
    # Enrolled before there was a second epoch.
    (exported.folder / "trust.json").write_bytes(first)
    with (
        file_server(exported.www) as port,
        exported.daemon(f"http://127.0.0.1:{port}", tmp_path),
        ControlPlaneClient(str(tmp_path), "production") as client,
    ):
        client.wait_for(generation, timeout_seconds=20)
        assert client.is_enabled("early")
        assert client.is_enabled("late")
    assert generation > 1 << 20
