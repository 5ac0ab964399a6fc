"""Files that are written whole or not at all, and files that only one process may hold."""

from __future__ import annotations

import itertools
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

# ---- Written whole -------------------------------------------------------------------------------


def write_whole(path: Path, content: bytes) -> None:
    """Put the content at `path` at once, whatever happens meanwhile. Raises OSError.

    The content goes to a file beside `path`, which then takes the name: a reader finds the old
    content or the new one, never a half. A link stays a link, and a file keeps its permissions.
    """
    path = Path(os.path.realpath(path))
    # The same folder, because renaming is atomic only inside one file system. The process number
    # keeps two writers out of each other's way.
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            with suppress(FileNotFoundError):
                shutil.copymode(path, temporary)  # before anything private stands in it
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # on the disk before the name points to it
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def move_aside(path: Path) -> Path:
    """Rename a file or folder to the first free number; returns its new path. Raises OSError.

    The folder runs/a becomes runs/a.1, or runs/a.2 if that is taken. A file keeps its ending:
    page.html becomes page.1.html.
    """
    stem, ending = (path.stem, path.suffix) if path.is_file() else (path.name, "")
    names = (path.with_name(f"{stem}.{number}{ending}") for number in itertools.count(1))
    aside = next(name for name in names if not os.path.lexists(name))
    os.rename(path, aside)
    return aside


def keep_old(path: Path, content: bytes | None = None) -> None:
    """Move a file aside that is about to be replaced, and say so; none, or the same, may stay.

    Raises OSError. Somebody may have worked in the file, or may have named another by mistake.
    """
    if path.is_file() and path.read_bytes() != content:
        print(f"{path} was there already: it is {move_aside(path)} now")


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


# ---- Held by one process -------------------------------------------------------------------------

LOCK = ".lock"  # in a run folder, and in the cache
_held: dict[Path, BinaryIO] = {}  # the lock files of this process, open as long as it holds them


def lock(path: Path) -> None:
    """Hold the lock file at `path` until `release_locks`, or until this process ends.

    The operating system keeps the lock and drops it with the process, however that ends. So a file
    that a dead process left behind bars nobody. A process may lock a path again that it holds.

    Raises BlockingIOError if another process holds it; the message names the process. Raises
    OSError if the file cannot be written. File systems without locks bar nobody.
    """
    path = path.resolve()
    if path in _held:
        return
    file = path.open("ab+")
    try:
        _lock_open_file(file)
    except (BlockingIOError, PermissionError):  # the latter on Windows
        file.seek(0)
        holder = " ".join(file.read(500).decode(errors="replace").split())
        file.close()
        raise BlockingIOError(holder or "another process") from None
    except OSError:  # some network drives know no locks
        file.close()
        return
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}: {shlex.join(sys.argv)}\n".encode(
        errors="replace"))
    file.flush()
    _held[path] = file


def unlock(path: Path) -> None:
    """Let go of one lock file, if this process holds it. The file stays.

    To delete it would be a mistake: a process that opened the file before would hold a lock that
    nobody else can see.
    """
    if file := _held.pop(path.resolve(), None):
        file.close()


def release_locks() -> None:
    """Let go of all that this process has locked."""
    while _held:
        _held.popitem()[1].close()


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Inside, this process holds the lock file at `path`; before, it waits for another that does.

    Raises OSError if the file cannot be written.
    """
    while True:
        try:
            lock(path)
            break
        except BlockingIOError:
            time.sleep(0.1)
    try:
        yield
    finally:
        unlock(path)


def _lock_open_file(file: BinaryIO) -> None:
    """Lock an open file at once; raises OSError if that cannot be."""
    if os.name == "nt":
        import msvcrt
        # Windows bars others from reading what is locked, so a byte far behind the text is locked.
        file.seek(1 << 20)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
