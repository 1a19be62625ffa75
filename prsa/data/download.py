"""Verified files in a folder: hand-placed, unpacked or downloaded, and never one under its final name whose hash is wrong."""

import hashlib
import os
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from ..errors import PrsaError

TRIES = 2  # per address, when the connection fails
WAIT = 2.0  # seconds before the second try
TIMEOUT = 60  # seconds without a byte


def sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed process left in a folder; younger ones may belong to a process at work."""
    for path in folder.rglob("*"):
        temporary = (
            path.name.startswith("tmp") and not path.suffix or path.name.startswith(".") and path.suffix == ".tmp"
        )
        if temporary and path.is_file() and time.time() - path.stat().st_mtime > 3600:
            path.unlink(missing_ok=True)


def by_hand(folder: Path, urls: tuple[str, ...], digest: str, members: dict[str, str]) -> str:
    """What a user without a network has to put where."""
    archive = folder / urls[0].rsplit("/", 1)[1]
    lines = [f"Fix: get {urls[0]} on any machine and put it, unchanged, at", f"  {archive}  (SHA-256 {digest})"]
    if all(members.values()):
        lines += [
            "or put its members at",
            *(f"  {folder / path}  (SHA-256 {known})" for path, known in members.items()),
        ]
    return "\n".join([*lines, "then run again: what has the right hash is used without a download."])


def fetch(folder: Path, urls: tuple[str, ...], digest: str, members: dict[str, str], notice: str = "") -> Path:
    """Make sure that verified members of a zip archive lie in ``folder``, and return it.

    Parameters: ``urls``: the address and its mirrors, tried in this order; ``digest``: SHA-256 of the archive, whose file name is that of the
    first address; ``members``: path inside the archive and below ``folder`` -> SHA-256, or "" where none is known (then only the archive
    vouches for it); ``notice``: printed before a download. A member or archive that is already there with the right hash is used.
    Raises `PrsaError` that says which file to put where; a failure leaves no partial file behind.
    """
    if all(known and (folder / path).is_file() and sha256(folder / path) == known for path, known in members.items()):
        return folder
    remove_leftovers(folder)
    archive = folder / urls[0].rsplit("/", 1)[1]
    help_text = by_hand(folder, urls, digest, members)
    if archive.is_file():
        found = sha256(archive)
        if found != digest:
            raise PrsaError(
                f"{archive}: expected SHA-256 {digest}, got {found} ({archive.stat().st_size} bytes). Delete this file.\n{help_text}"
            )
    else:
        if notice:
            _say(notice)
        _download(archive, urls, digest, help_text)
    try:
        with zipfile.ZipFile(archive) as content:
            for path, known in members.items():
                _unpack(content, path, known, folder / path)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise PrsaError(
            f"{archive.name}: expected to unpack {', '.join(members)} into {folder}, got {type(error).__name__}: {error}. "
            f"Check the free space and the rights of the folder.\n{help_text}"
        ) from error
    return folder


def _download(archive: Path, urls: tuple[str, ...], digest: str, help_text: str) -> None:
    import pooch
    import requests

    pooch.get_logger().setLevel("ERROR")
    get = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT)
    failures = {}
    for url in urls:
        for attempt in range(TRIES):
            _say(f"Downloading {url}")
            try:
                # pooch writes to a temporary name in the same folder and renames it when the hash is right.
                pooch.retrieve(url, f"sha256:{digest}", fname=archive.name, path=archive.parent, downloader=get)
                return
            except ValueError as error:  # what arrived has another hash: asking again would bring the same
                failures[url] = str(error)
                break
            except (requests.RequestException, OSError) as error:
                failures[url] = f"{type(error).__name__}: {str(error).rsplit('(Caused by ', 1)[-1]}"
                refused = getattr(getattr(error, "response", None), "status_code", 500) < 500
                if refused or attempt + 1 == TRIES:
                    break
                time.sleep(WAIT)
    reasons = "\n".join(f"  {url}: {reason}" for url, reason in failures.items())
    raise PrsaError(f"{archive.name}: expected a download with SHA-256 {digest}, got\n{reasons}\n{help_text}")


def _unpack(content: zipfile.ZipFile, path: str, known: str, target: Path) -> None:
    """One member, chosen by our name for it, so that no path written in the archive is ever followed."""
    try:
        info = content.getinfo(path)
    except KeyError:
        raise PrsaError(
            f"{content.filename}: expected the member {path}, got {', '.join(content.namelist()[:20])}. "
            "This is not the archive the reader was written for."
        ) from None
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".tmp")
    digest = hashlib.sha256()
    try:
        with os.fdopen(handle, "wb") as out, content.open(info) as member:
            while piece := member.read(1 << 20):
                digest.update(piece)
                out.write(piece)
        if known and digest.hexdigest() != known:
            raise PrsaError(
                f"{path} in {content.filename}: expected SHA-256 {known}, got {digest.hexdigest()}. "
                "This is not the archive the reader was written for."
            )
        os.chmod(name, 0o644)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)
