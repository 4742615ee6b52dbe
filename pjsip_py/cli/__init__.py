# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``pjsip-py``: register, watch and try out from a shell."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; it ends with the exit code that ``pjsip-py --help`` explains."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError as error:
        print(
            f"pjsip-py needs the package {error.name}: pip install 'pjsip-py[cli]'", file=sys.stderr
        )
        sys.exit(2)
    from .app import run

    sys.exit(run())
