"""Bytes of a connection in, requests out, as uvicorn reads them with h11, held to a time in which each request must arrive.

uvicorn waits for ever for the first byte of a connection, for the rest of a header, and for the rest of a body that was
refused already. Each such connection would hold one of the places that there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio

HEADER_SECONDS = 10.0


class TimedConnection(H11Protocol):
    """Closes a connection on which no request has come for ``header_seconds``, however many bytes have.

    Attributes:
        header_seconds: From the opening, or from the end of an answer, to the headers of the next request.
    """

    header_seconds: float = HEADER_SECONDS
    _silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] (as uvicorn has it)
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        super().connection_lost(exc)
        self._stop_watching()

    def data_received(self, data: bytes) -> None:
        """Read what came; a request that is complete up to its body ends the wait."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        answering = bool(self.cycle) and not self.cycle.response_complete
        if answering or self.transport.is_closing():
            self._stop_watching()
        elif self._silence is None:
            self._silence = self.loop.call_later(self.header_seconds, self._close)

    def _stop_watching(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _close(self) -> None:
        self._silence = None
        self.transport.close()
