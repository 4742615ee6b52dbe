# SPDX-License-Identifier: GPL-3.0-or-later
"""pytest fixtures: a registrar and an endpoint, each closed when its test ends.

Installed as a pytest plugin; nothing is imported until a test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pjsip_py import Endpoint
    from pjsip_py.testing import Registrar


@pytest.fixture
def sip_registrar() -> Iterator[Registrar]:
    """A running registrar on UDP and TCP of 127.0.0.1 that knows alice (password ``secret``).

    What goes wrong on its thread fails the test.
    """
    from pjsip_py.testing import Registrar

    with Registrar(protocols=("udp", "tcp"), users={"alice": "secret"}) as registrar:
        yield registrar


@pytest.fixture
def sip_endpoint() -> Iterator[Endpoint]:
    """An open endpoint; a handler that raises fails the test."""
    from pjsip_py import Endpoint

    with Endpoint(strict=True) as endpoint:
        yield endpoint
