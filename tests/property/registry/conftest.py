"""Time that only the test moves."""

import pytest


class HandClock:
    """Both clocks advance together; `suspend` moves the wall clock alone, as a sleeping machine does."""

    def __init__(self) -> None:
        self.wall_ms = 1_700_000_000_000
        self.mono_ms = 50_000.0

    def now_ms(self) -> int:
        return self.wall_ms

    def monotonic_ms(self) -> float:
        return self.mono_ms

    def advance(self, ms: int) -> None:
        self.wall_ms += ms
        self.mono_ms += ms

    def suspend(self, ms: int) -> None:
        self.wall_ms += ms


@pytest.fixture
def clock() -> HandClock:
    return HandClock()
