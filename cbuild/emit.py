# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the C source of the extension module: ``python emit.py OUTPUT.c CDEF.h ...``."""

from __future__ import annotations

import sys
from pathlib import Path

from cffi import FFI


def main(output: str, *declarations: str) -> None:
    ffi = FFI()
    for each in declarations:
        ffi.cdef(Path(each).read_text(encoding="utf-8"))
    ffi.set_source("pjsip_py._pjsip", '#include "pjsip_py.h"', py_limited_api=True)
    ffi.emit_c_code(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
