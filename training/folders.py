"""The folder that `--out` names: nothing that stood there is lost, and old and new never mix.

    hold_folder     before any work: refuse a folder that is not a run's, keep other processes out
        ...         load models, make banks: minutes, and whatever fails here costs no old result
    begin_folder    move what an earlier run left to NAME.1, and begin with an empty folder
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from backend import devices
from backend.devices import exit_with
from backend.files import LOCK, lock, move_aside, unlock
from systems.own_past import HARNESSES
from training.checkpoints import FILE
from training.options import named_path

# What tells who made a folder: the options in its config.json, of an evaluation in summary.json.
MAKERS = {
    "training run": {"agent", "steps", "out"},
    "evaluation": {"embedder", "turns", "out"},
    "comparison": {"turns", "memories", "max_new_tokens"},
}
OWN_MODELS = ("checkpoint", *HARNESSES)  # the folders of a run that hold models it trained
WEIGHTS = ("*.safetensors", "*.gguf", "pytorch_model*.bin")
READ = ("model", "manager", "answerer", "judge", "data", "embedder", "trajectories")


def settings_of(folder: Path, name: str) -> dict[str, Any]:
    """What a file of settings in a folder says; {} if it is absent or broken."""
    try:
        settings = json.loads((folder / name).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def maker_of(folder: Path) -> str:
    """What filled a folder: a key of `MAKERS`; "" if it is empty, or somebody else's.

    A resume.pt tells an unfinished training run, also where config.json is lost: it has all options
    too.
    """
    settings = settings_of(folder, "config.json") or settings_of(folder, "summary.json")
    unfinished = "training run" if (folder / FILE).is_file() else ""
    return next((maker for maker, keys in MAKERS.items() if keys <= settings.keys()), unfinished)


def old_files(folder: Path) -> list[str]:
    """The names of what lies in a folder; the lock file counts as nothing. Raises OSError."""
    return sorted(name for name in os.listdir(folder) if name != LOCK) if folder.is_dir() else []


def foreign_models(folder: Path) -> list[Path]:
    """The weights in a run folder that no run put there."""
    return [path for pattern in WEIGHTS for path in folder.rglob(pattern)
            if path.relative_to(folder).parts[0] not in OWN_MODELS]


def refusal_of(folder: Path, maker: str, moves: bool) -> str:
    """Why a run may not have this folder; "" if it may. Raises OSError if it cannot be read.

    `maker` is the kind of the run. It `moves` what an earlier one left, or goes on with it.
    """
    names = old_files(folder)
    if not names:
        return ""
    if not (earlier := maker_of(folder)):
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        return f"holds files that are not of a run ({shown})"
    if earlier != maker:
        return f"holds the results of another kind, of a {earlier}"
    if models := foreign_models(folder):
        return f"holds a model that no run put there ({models[0].relative_to(folder)})"
    if moves and Path.cwd().is_relative_to(os.path.realpath(folder)):
        return "cannot be moved aside, because this command was started in it"
    return ""


def read_from(folder: Path, options: Any) -> str:
    """The option that names a model or data inside the run folder, as typed; "" if none does."""
    inside = Path(os.path.realpath(folder))
    for name in READ:
        path = named_path(name, getattr(options, name, None))
        if path and Path(os.path.realpath(path)).is_relative_to(inside):
            return f"--{name} {path}"
    return ""


def lock_or_stop(folder: Path) -> None:
    """Keep other runs out of a folder while this one lasts (`release_locks`). Raises OSError.

    Stops the program with one line if another run is in it, because both would write metrics.csv.
    """
    try:
        lock(folder / LOCK)
    except BlockingIOError as error:
        exit_with(f"{folder} is in use by {error}; wait until it ends, or take another folder")


def hold_folder(options: Any, maker: str, moves: bool = True) -> Path:
    """Make and lock the folder of `--out`, and leave what is in it as it is; returns the folder.

    Stops the program with one line if the folder is neither new, empty nor of an earlier run of the
    same kind, if another process is in it, or if it cannot be written to. `moves` says whether
    `begin_folder` will follow.
    """
    folder = Path(options.out)
    if not devices.is_main():
        return folder
    try:
        if (folder / LOCK).exists():  # else it is somebody else's, and nothing is written into it
            lock_or_stop(folder)
        message = ""
        if reason := refusal_of(folder, maker, moves):
            message = f"--out {folder}: {reason}; choose a new folder"
        elif moves and (option := read_from(folder, options)):
            message = (f"{option} lies in the run folder {folder}, which this run would replace; "
                       "choose another --out")
        if message:
            unlock(folder / LOCK)
            exit_with(message)
        folder.mkdir(parents=True, exist_ok=True)
        lock_or_stop(folder)
    except OSError as error:
        exit_with(f"cannot write to the run folder {folder} ({error.strerror}); choose another "
                  "--out")
    return folder


def begin_folder(folder: Path) -> None:
    """Move what an earlier run left in a held folder to NAME.1, or the next free number.

    Stops the program with one line if the folder cannot be moved, such as a mounted disk.
    """
    if not devices.is_main() or not old_files(folder):
        return
    place = Path(os.path.realpath(folder))  # so that a link to another disk stays a link
    try:
        unlock(folder / LOCK)  # because Windows moves no folder in which a file is open
        aside = move_aside(place)
        place.mkdir()
        lock_or_stop(folder)
    except OSError as error:
        exit_with(f"--out {folder}: the earlier results cannot be moved aside ({error.strerror}); "
                  "choose a new folder")
    print(f"{folder} held earlier results: they are in {aside} now")
