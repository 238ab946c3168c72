"""What every test has: time that only the test moves, and property tests that a busy machine cannot fail."""

import pytest
from hypothesis import HealthCheck, settings

from meshway.testing.clock import ManualClock

# How long an example takes says how busy the machine is; pytest's own timeout bounds what hangs.
settings.register_profile("meshway", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("meshway")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()
