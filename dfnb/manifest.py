"""What lies outside this repository, and how it gets here: :func:`fetch` downloads a file by its pinned sha256."""

import http.client
import urllib.request
from pathlib import Path

from tqdm import tqdm

from dfnb import store
from dfnb.store import DfnbError


def fetch(url: str, path: Path, sha256: str, progress: bool = True) -> Path:
    """The file at ``path``, downloaded from ``url`` when it is not there: complete and verified, or not at all.

    Raises :class:`DfnbError` when the file, old or new, has another sha256, or when the download fails.
    """
    path = Path(path)
    if path.exists():
        return verified(path, sha256)
    by_hand = f"download it by hand and put it at {path}"
    try:
        with store.atomic(path) as temporary, urllib.request.urlopen(url, timeout=30) as answer:
            size = int(answer.headers.get("Content-Length") or 0) or None
            bar = tqdm(total=size, unit="B", unit_scale=True, desc=path.name, mininterval=10, disable=not progress)
            with bar, temporary.open("wb") as file:
                while block := answer.read(1 << 18):
                    file.write(block)
                    bar.update(len(block))
            if (found := store.sha256(temporary)) != sha256:
                raise DfnbError(f"{url} gave a file of sha256 {found}, not {sha256}; {by_hand}")
    except (OSError, http.client.HTTPException) as error:
        raise DfnbError(f"{path.name} could not be downloaded from {url} ({error}); {by_hand}") from None
    return path


def verified(path: Path, sha256: str) -> Path:
    """``path`` when its bytes have this sha256; raises :class:`DfnbError` when they have not."""
    if (found := store.sha256(path)) != sha256:
        raise DfnbError(f"{path} has sha256 {found}, not {sha256}; delete it or put the right file in its place")
    return path
