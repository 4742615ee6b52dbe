# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m pjsip_py``: what a bug report should say."""

from __future__ import annotations

import platform
import sys

from . import build_info


def main() -> None:
    print(f"python: {platform.python_implementation()} {sys.version.split()[0]}")
    print(f"platform: {platform.platform()}")
    for name, value in build_info().items():
        if isinstance(value, tuple):
            value = ", ".join(value)
        elif isinstance(value, dict):
            value = ", ".join(f"{key} {number}" for key, number in value.items())
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
