"""What the tests of commands share."""

import asyncio
import threading

import pytest
from fake_hub import FakeHub


@pytest.fixture
def hub(monkeypatch):
    """A fake hub on a loop of its own: the commands run loops themselves."""
    made = FakeHub()
    loop = asyncio.new_event_loop()
    serving = made.serving()
    loop.run_until_complete(serving.__aenter__())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("MESHWAY_URL", made.url)
    monkeypatch.delenv("MESHWAY_API_KEY", raising=False)
    yield made
    asyncio.run_coroutine_threadsafe(serving.__aexit__(None, None, None), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()
