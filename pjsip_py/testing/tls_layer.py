# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS between a socket and the registrar.

asyncio's own does the same, but drops the alert by which a server says why it refuses a client, and
that is what a test of a client wants to see.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any

from .faults import Fault
from .sockets import cut

_CHUNK = 65536


class TlsLayer(asyncio.Protocol):
    """The protocol of the socket; that of the application begins after the handshake."""

    def __init__(
        self,
        context: ssl.SSLContext,
        application: asyncio.Protocol,
        on_end: Callable[[TlsLayer], None],
        fault: Fault | None = None,
    ) -> None:
        self._fault = fault
        if fault is not None and fault.context is not None:
            context = fault.context
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._application = application
        self._on_end = on_end
        self._established = False
        self._socket: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._socket = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._socket = None
        self._on_end(self)
        if self._established:
            self._application.connection_lost(exc)

    def _fail(self, fault: Fault) -> None:
        """What happens to a handshake in place of an answer."""
        assert self._socket is not None
        if fault.alert is not None:  # a fatal one, in a record of its own (RFC 8446 §5.1, §6)
            self._socket.write(bytes((21, 3, 3, 0, 2, 2, fault.alert)))
        if fault.name == "reset":
            cut(self._socket)
        elif fault.name != "silent":
            self._socket.close()

    def data_received(self, data: bytes) -> None:
        if self._fault is not None and self._fault.context is None:
            self._fail(self._fault)
            return
        self._incoming.write(data)
        try:
            if not self._established:
                self._tls.do_handshake()
                self._established = True
                assert self._socket is not None
                self._application.connection_made(_TlsTransport(self, self._socket, self._tls))
            while self._socket is not None and (chunk := self._tls.read(_CHUNK)):
                self._application.data_received(chunk)
            self.close()  # the peer has said that it ends
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError:
            self._flush()  # the alert
            if self._socket is not None:
                self._socket.close()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        with contextlib.suppress(ssl.SSLError):  # the peer has ended it: nobody to tell
            self._tls.write(data)
        self._flush()

    def close(self) -> None:
        if self._socket is None or self._socket.is_closing():
            return
        with contextlib.suppress(ssl.SSLError):  # it does not wait for the peer's answer
            self._tls.unwrap()
        self._flush()
        self._socket.close()

    def write_eof(self) -> None:
        """Say that nothing more comes (RFC 8446 §6.1), and go on reading."""
        if self._socket is None or self._socket.is_closing():
            return
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()
        self._socket.write_eof()

    def abort(self) -> None:
        if self._socket is not None:
            self._socket.abort()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and self._socket is not None and not self._socket.is_closing():
            self._socket.write(data)


class _TlsTransport(asyncio.Transport):
    """What the application writes to."""

    def __init__(self, layer: TlsLayer, below: asyncio.Transport, tls: ssl.SSLObject) -> None:
        super().__init__()
        self._layer = layer
        self._below = below
        self._tls = tls

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._tls if name == "ssl_object" else self._below.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._below.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._layer.write(data)

    def write_eof(self) -> None:
        self._layer.write_eof()

    def close(self) -> None:
        self._layer.close()

    def abort(self) -> None:
        self._layer.abort()
