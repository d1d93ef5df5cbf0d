"""Who is let in. A request that cannot be answered soon is refused before its body is read: that costs next
to nothing, and those who are in keep their speed."""

from __future__ import annotations

from collections import deque
from math import ceil
from statistics import median

from nextvec.serving.errors import Refusal

STRETCH = 0.05  # seconds of work that a pace is measured over
TOGETHER = 0.001  # seconds between two answers of one batch at most
STRETCHES = 5  # of the last ones


class AdmissionQueue:
    """The requests of one kind that are under way.

    A newcomer's wait is expected from those before it: how many they are, times the seconds between two
    answers while anybody waited (Little's law; the median of some stretches of work, so that one stall is no
    reason to refuse anybody). A crowd is answered faster than a few, since it is answered
    together; so what was measured of a few says nothing of more than twice as many.

    Args:
        limit: requests under way at most.
        max_wait: seconds that a newcomer may be expected to wait.
    Attributes:
        under_way: admitted and not yet answered.
    """

    def __init__(self, limit: int, max_wait: float) -> None:
        self._limit, self._max_wait = limit, max_wait
        self.under_way = 0
        self._paces: deque[float] = deque(maxlen=STRETCHES)  # seconds between two answers, by stretch
        self._seconds = 0.0  # their median; 0 before there are some
        self._crowd = 0  # under way at most in the last of them
        self._busy, self._answers, self._most, self._since = 0.0, 0, 0, 0.0

    @property
    def expected_wait(self) -> float:
        """Seconds; 0 as long as nothing was measured."""
        return self.under_way * self._seconds

    def enter(self, now: float) -> None:
        """Let one in. Raises Refusal 429, telling when to come again.

        Args:
            now: on the clock of `time.perf_counter`, as in `leave`.
        """
        wait = self.expected_wait
        too_long = wait > self._max_wait and 0 < self.under_way <= 2 * self._crowd
        if too_long or self.under_way >= self._limit:
            raise Refusal(
                429,
                "too many requests are under way",
                code="overloaded",
                remedy="try again after the seconds of Retry-After",
                retry_after=max(1, ceil(wait)),
            )
        if self.under_way == 0:
            self._since = now  # a pause of the clients is not our slowness
        self.under_way += 1
        self._most = max(self._most, self.under_way)

    def leave(self, now: float, answered: bool) -> None:
        """One is done. `answered` is false for one that took no work: refused, broken off."""
        self.under_way -= 1
        took, self._since = now - self._since, now
        if took > TOGETHER and self._busy >= STRETCH and self._answers:
            self._measure()
        self._busy += took
        self._answers += answered

    def _measure(self) -> None:
        """A stretch is over: between batches, for the answers of one leave at the same instant."""
        self._paces.append(self._busy / self._answers)
        if len(self._paces) > STRETCHES // 2:
            self._seconds = median(self._paces)
        self._busy, self._answers = 0.0, 0
        self._crowd, self._most = self._most, self.under_way
