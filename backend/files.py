"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Put the content at `path` at once, whatever happens meanwhile. Raises OSError.

    The content goes to a file beside `path`, which then takes the name: a reader finds the old
    content or the new one, never a half.
    """
    # The same folder, because renaming is atomic only inside one file system. The process number
    # keeps two writers out of each other's way.
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # on the disk before the name points to it
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise OSError if no file can be written at `path`; an existing file stays as it is."""
    is_new = not path.exists()
    with path.open("ab"):
        pass
    if is_new:
        path.unlink()


def cache_folder() -> Path:
    """Where downloads and unpacked models are kept: $MEMORY_R1_CACHE, else ~/.cache/memory-r1."""
    return Path(os.environ.get("MEMORY_R1_CACHE") or "~/.cache/memory-r1").expanduser()
