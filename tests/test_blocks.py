# SPDX-License-Identifier: GPL-3.0-or-later
"""The allocator behind PJSIP's pools (cbuild/shim/blocks.c)."""

from __future__ import annotations

import subprocess

import c_targets


def test_blocks_never_overlap_and_go_back() -> None:
    done = subprocess.run(
        [c_targets.build("blocks") / "blocks"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
