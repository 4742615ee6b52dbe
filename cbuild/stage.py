# SPDX-License-Identifier: GPL-3.0-or-later
"""Copy the pristine pjproject tree to a build-time folder and apply the declared substitutions.

    python stage.py TREE PATCHES.toml DESTINATION

Prints the ids of the substitutions, one a line.  Files that are already as wanted are not touched,
so a rebuild compiles only what changed.  A substitution whose expected text is not found exactly
once fails the build and names itself.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TypedDict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Edit(TypedDict):
    """One place: in ``file``, ``before`` becomes ``after``."""

    file: str
    before: str
    after: str


class Patch(TypedDict, total=False):
    """One entry of vendor/patches.toml."""

    id: str
    upstream: str
    reason: str
    edit: list[Edit]


class PatchError(Exception):
    """A declared substitution does not fit the source."""


def read_patches(path: Path) -> list[Patch]:
    """The declared substitutions, in order."""
    patches: list[Patch] = tomllib.loads(path.read_text(encoding="utf-8"))["patch"]
    return patches


def patched(tree: Path, patches: list[Patch]) -> dict[str, str]:
    """The text of every file that the substitutions change, by its name in the tree."""
    changed: dict[str, str] = {}
    for patch in patches:
        for edit in patch["edit"]:
            name, before, after = edit["file"], edit["before"], edit["after"]
            path = tree / name
            if not path.is_file():
                raise PatchError(f"patch {patch['id']}: {name} is not in {tree}")
            text = changed.get(name) or path.read_text(encoding="utf-8")
            times = text.count(before)
            if times != 1:
                raise PatchError(
                    f"patch {patch['id']}: its text is in {name} {times} times, not once; "
                    f"it begins {before.strip().splitlines()[0].strip()!r}"
                )
            changed[name] = text.replace(before, after)
    return changed


def stage(tree: Path, patches: list[Patch], destination: Path) -> None:
    """Make ``destination`` a copy of ``tree`` with the substitutions applied."""
    changed = patched(tree, patches)
    wanted = set()
    for path in sorted(tree.rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(tree).as_posix()
        wanted.add(name)
        data = changed[name].encode() if name in changed else path.read_bytes()
        target = destination / name
        if not target.is_file() or target.read_bytes() != data:
            target.parent.mkdir(parents=True, exist_ok=True)
            new = target.with_name(f".{target.name}.{os.getpid()}")
            new.write_bytes(data)
            new.replace(target)  # a compiler of another build never sees half a file
    for path in destination.rglob("*"):
        if path.is_file() and path.relative_to(destination).as_posix() not in wanted:
            path.unlink()


def main(tree: str, patch_file: str, destination: str) -> int:
    patches = read_patches(Path(patch_file))
    try:
        stage(Path(tree), patches, Path(destination))
    except PatchError as error:
        print(error, file=sys.stderr)
        return 1
    for patch in patches:
        print(patch["id"])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
