from dataclasses import dataclass
@dataclass(frozen=True)
class Patch:
    file: str
    changes: tuple
PATCHES: dict[int, Patch] = {}
