# SPDX-License-Identifier: GPL-3.0-or-later
"""How the module was compiled and linked, read from the file itself (docs/security.md)."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pjsip_py import _pjsip

MODULE = Path(_pjsip.__file__)
if MODULE.read_bytes()[:4] != b"\x7fELF":
    pytest.skip("the module is no ELF file", allow_module_level=True)

from elftools.elf.elffile import ELFFile  # noqa: E402


@pytest.fixture(scope="module")
def elf() -> Iterator[ELFFile]:
    with MODULE.open("rb") as file:
        yield ELFFile(file)


def section(elf: ELFFile, name: str) -> Any:
    found = elf.get_section_by_name(name)
    assert found is not None, name
    return found


@pytest.fixture(scope="module")
def tags(elf: ELFFile) -> dict[str, list[int]]:
    """The dynamic section."""
    found: dict[str, list[int]] = {}
    for tag in section(elf, ".dynamic").iter_tags():
        found.setdefault(tag.entry.d_tag, []).append(tag.entry.d_val)
    return found


@pytest.fixture(scope="module")
def imported(elf: ELFFile) -> set[str]:
    symbols = section(elf, ".dynsym").iter_symbols()
    return {each.name for each in symbols if each["st_shndx"] == "SHN_UNDEF"}


@pytest.fixture
def optimized(imported: set[str]) -> None:
    if any(name.startswith(("__asan_", "__tsan_", "__ubsan_")) for name in imported):
        pytest.skip("a build with sanitizers, which leaves this to them")


def segment(elf: ELFFile, kind: str) -> Any:
    (found,) = [each for each in elf.iter_segments() if each["p_type"] == kind]
    return found


def test_it_exports_one_symbol(elf: ELFFile) -> None:
    """Neither does another PJSIP in the process see ours, nor we it."""
    symbols = section(elf, ".dynsym").iter_symbols()
    exported = {each.name for each in symbols if each["st_shndx"] != "SHN_UNDEF"}
    assert exported == {"PyInit__pjsip"}


def test_it_imports_nothing_of_pjsip(imported: set[str]) -> None:
    assert [name for name in imported if re.match(r"pj|pjpy_|pjsip_", name)] == []


def test_it_is_position_independent_without_relocations_in_code(
    elf: ELFFile, tags: dict[str, list[int]]
) -> None:
    assert elf["e_type"] == "ET_DYN"
    assert "DT_TEXTREL" not in tags
    assert not any(flags & 0x4 for flags in tags.get("DT_FLAGS", []))  # DF_TEXTREL


def test_it_is_bound_at_once_and_then_read_only(elf: ELFFile, tags: dict[str, list[int]]) -> None:
    """Full RELRO: no entry of the global offset table can be overwritten."""
    assert tags["DT_FLAGS"][0] & 0x8 or tags["DT_FLAGS_1"][0] & 0x1  # BIND_NOW, NOW
    protected = segment(elf, "PT_GNU_RELRO")
    got = section(elf, ".got")
    assert protected["p_vaddr"] <= got["sh_addr"]
    assert got["sh_addr"] + got["sh_size"] <= protected["p_vaddr"] + protected["p_memsz"]
    assert elf.get_section_by_name(".got.plt") is None


def test_nothing_is_writable_and_executable(elf: ELFFile) -> None:
    assert segment(elf, "PT_GNU_STACK")["p_flags"] & 0x1 == 0
    for each in elf.iter_segments():
        assert each["p_flags"] & 0x3 != 0x3, each["p_type"]


def test_it_looks_for_libraries_where_the_system_does(tags: dict[str, list[int]]) -> None:
    assert "DT_RPATH" not in tags
    assert "DT_RUNPATH" not in tags


@pytest.mark.usefixtures("optimized")
def test_buffers_on_the_stack_are_guarded(imported: set[str]) -> None:
    assert "__stack_chk_fail" in imported


@pytest.mark.usefixtures("optimized")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's functions")
def test_copies_are_checked(imported: set[str]) -> None:
    """_FORTIFY_SOURCE; with a compiler that knows sizes at run time several at least."""
    checked = {name for name in imported if name.endswith("_chk")}
    assert checked >= {"__memcpy_chk", "__snprintf_chk", "__vsnprintf_chk"}
    assert imported.isdisjoint({"gets", "strcpy", "strcat", "sprintf", "vsprintf"})


@pytest.mark.skipif(platform.machine() != "x86_64", reason="an x86-64 instruction")
@pytest.mark.usefixtures("optimized")
def test_calls_land_on_marks(elf: ELFFile) -> None:
    """-fcf-protection; whether the loader enforces it depends on every other object, too."""
    (entry,) = section(elf, ".dynsym").get_symbol_by_name("PyInit__pjsip")
    code = section(elf, ".text")
    offset = entry["st_value"] - code["sh_addr"]
    assert code.data()[offset : offset + 4] == b"\xf3\x0f\x1e\xfa"  # endbr64
    assert code.data().count(b"\xf3\x0f\x1e\xfa") > 500
