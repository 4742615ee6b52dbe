# SPDX-License-Identifier: GPL-3.0-or-later
"""What cffi is told about C is what the C is."""

from __future__ import annotations

import re

from c_targets import ROOT, build

from pjsip_py import _pjsip


def test_declarations_fit_the_real_headers() -> None:
    build("cdef")


def test_every_declared_function_is_linked() -> None:
    # With -z now a missing function stops the import; the names show that none was left out.
    declared = re.findall(r"\b(pjpy_\w+)\(", (ROOT / "cbuild/shim.cdef.h").read_text())
    assert len(declared) > 20
    for name in declared:
        assert callable(getattr(_pjsip.lib, name))


def test_every_struct_and_constant_can_be_used() -> None:
    # cffi compares sizes and values with the compiler's at the first use only.
    typedefs, _, _ = _pjsip.ffi.list_types()
    for name in typedefs:
        assert _pjsip.ffi.sizeof(name) > 0
    for name in dir(_pjsip.lib):
        getattr(_pjsip.lib, name)
