"""What every test has: time that only the test moves, and property tests that a busy machine cannot fail."""

from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from meshway.testing.clock import ManualClock

# How long an example takes says how busy the machine is; pytest's own timeout bounds what hangs.
settings.register_profile("meshway", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("meshway")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: begun last it would keep one worker alone at the end."""
    items.sort(key=lambda item: item.path.name != "test_mesh_faults.py")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What was captured goes to another process, as UTF-8; some tests log what is none."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report
