"""Verified members of an archive in a folder: placed by hand, unpacked or downloaded; never one whose hash is wrong."""

import sys
import time
import zipfile
from functools import partial
from pathlib import Path

import pooch
import requests

from ..errors import PrsaError

TIMEOUT = 60  # seconds without a byte
MOST = 8 << 30  # bytes that an archive may unpack to


def _right(path: Path, known: str) -> bool:
    return bool(known) and path.is_file() and pooch.file_hash(str(path)) == known


def fetch(folder: Path, url: str, digest: str, members: dict[str, str], notice: str = "") -> Path:
    """Make sure that verified members of a zip archive lie in ``folder``, and return it.

    ``digest``: SHA-256 of the archive; ``members``: path inside the archive and below ``folder`` -> SHA-256, or ""
    where none is known: then only the archive vouches for it; ``notice``: printed before a download. What is there
    already with the right hash is used. Raises `PrsaError` that says which file to put where; no partial file stays.
    """
    if all(_right(folder / path, known) for path, known in members.items()):
        return folder
    for left in folder.glob("tmp*"):  # of a download that was killed; younger ones may belong to a process at work
        if time.time() - left.stat().st_mtime > 3600:
            left.unlink()
    archive = folder / url.rsplit("/", 1)[1]
    if notice and not archive.is_file():
        print(notice, file=sys.stderr, flush=True)
    registry = {archive.name: f"sha256:{digest}"}
    store = pooch.create(folder, base_url="", registry=registry, urls={archive.name: url}, retry_if_failed=1)
    get = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT)
    try:
        store.fetch(archive.name, partial(_unpack, members), get)
    except (requests.RequestException, zipfile.BadZipFile, ValueError, OSError) as error:
        got = f"{type(error).__name__}: {str(error).rsplit('(Caused by ', 1)[-1][:200]}"
        raise PrsaError(
            f"{folder.name}: expected {archive.name} with its members, got {got}. Likely causes: no network or another "
            f"file at the address (check: open it in a browser); no space or rights (check: df -h, ls -ld). Fix: "
            f"get {url} on any machine and put it, unchanged, at {archive} (SHA-256 {digest}). Its members, with their "
            f"hashes in data/README.md, will do as well, below {folder}."
        ) from error
    return folder


def _unpack(members: dict[str, str], archive: str, action: str, store: pooch.Pooch) -> None:
    """Unpack what is missing, chosen by our name for it, so that no path written in the archive is followed."""
    folder = Path(archive).parent
    with zipfile.ZipFile(archive) as content:
        missing = members.keys() - set(content.namelist())
        size = sum(info.file_size for info in content.infolist())
    if missing or size > MOST:
        raise ValueError(f"an archive of {size} bytes, unpacked, without the member {', '.join(missing) or 'too many'}")
    wanted = [path for path, known in members.items() if not _right(folder / path, known)]
    done = False
    try:
        for path in wanted:
            (folder / path).unlink(missing_ok=True)
        pooch.Unzip(members=wanted, extract_dir=".")(archive, "download", store)
        wrong = [path for path in wanted if members[path] and not _right(folder / path, members[path])]
        if wrong:
            raise ValueError(f"another SHA-256 of {', '.join(wrong)}")
        done = True
    finally:
        for path in () if done else wanted:
            (folder / path).unlink(missing_ok=True)
