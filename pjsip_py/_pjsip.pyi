# SPDX-License-Identifier: GPL-3.0-or-later
# The untyped border: cffi's objects.  Only _ffi.py imports them.
from typing import Any

ffi: Any
lib: Any
