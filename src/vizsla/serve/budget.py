"""Tasks that each need some of a limited thing in; each let in when enough of it is left, in the order in which they came."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass


@dataclass(kw_only=True, slots=True, eq=False)
class _Waiting:
    amount: int
    turn: asyncio.Future[None]


class Budget:
    """Bounds what tasks of one event loop use together, such as the pixels that are being decoded.

    First come, first served: who needs much is not overtaken for ever by those who need little.

    Args:
        most: What all of them may use at once.

    Attributes:
        used: Right now.
        num_waiting: Tasks that wait for their share.

    Example:
        >>> budget = Budget(24_000_000)
        >>> await budget.take(500 * 375)
        >>> budget.give(500 * 375)
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[_Waiting] = deque()
        self.used = 0

    @property
    def num_waiting(self) -> int:
        """Tasks that wait for their share."""
        return sum(not waiting.turn.done() for waiting in self._waiting)

    async def take(self, amount: int) -> None:
        """Wait until there is enough, then count it as used; a caller that is cancelled meanwhile has taken nothing.

        Args:
            amount: Of more than there is at all, all that there is is waited for.
        """
        amount = min(amount, self._most)
        waiting = _Waiting(amount=amount, turn=asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._let_in()
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.cancelled():
                self._let_in()  # Those behind it may need less.
            else:  # Its turn came at the same moment.
                self.give(amount)
            raise

    def give(self, amount: int) -> None:
        """Give back what was taken.

        Args:
            amount: As for ``take``.
        """
        self.used -= min(amount, self._most)
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            if not first.turn.cancelled():
                if self.used + first.amount > self._most:
                    return
                self.used += first.amount
                first.turn.set_result(None)
            self._waiting.popleft()
