# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m pjsip_py.cli`` is ``pjsip-py``."""

from . import main

main()
