# SPDX-License-Identifier: GPL-3.0-or-later
"""``pjsip-py info``."""

from __future__ import annotations

import json
import platform

import click

import pjsip_py
from pjsip_py.__main__ import main as print_info


@click.command(short_help="Show versions, patches and limits of this build.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def info(as_json: bool) -> None:
    """Show what this build is: versions, patches, TLS, digest algorithms, limits.

    Put the output into a bug report.
    """
    if not as_json:
        print_info()
        return
    about = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
    }
    print(json.dumps(about | pjsip_py.build_info(), indent=2))
