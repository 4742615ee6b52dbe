# SPDX-License-Identifier: GPL-3.0-or-later
"""A run's report as JSON, JUnit XML and HTML."""
from __future__ import annotations
def write_html(*a): pass
def write_json(*a): pass
def write_junit(*a): pass
