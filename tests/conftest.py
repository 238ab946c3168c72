"""Time that only the test moves, for every test that asks for `clock`."""

import pytest

from meshway.testing.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()
