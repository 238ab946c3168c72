"""`meshway.testing.local_hub()`: what users run their own tests against."""

import asyncio
import contextlib
import subprocess
import sys

import httpx
import pytest

from meshway.client import HubError
from meshway.settings.problems import SettingsError
from meshway.testing import local_hub


@pytest.fixture
async def hub():
    async with local_hub() as running:
        yield running


async def test_a_fixture_gives_a_hub_that_answers(hub):
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{hub.url}/readyz")).status_code == 200
    async with hub.client() as client:
        assert (await client.enqueue("orders", {"item": "tea"}, id="o-1")).id == "o-1"


async def test_the_example_of_its_documentation_works(hub):
    shipped = asyncio.Event()

    async def ship(order):
        assert order.data == {"item": "tea"}
        shipped.set()

    async with hub.client() as client, client.worker("orders", ship):
        await client.enqueue("orders", {"item": "tea"})
        async with asyncio.timeout(5):
            await shipped.wait()


async def test_a_hub_started_again_on_the_same_directory_has_everything(tmp_path):
    async with local_hub(data=tmp_path) as hub, hub.client() as client:
        await client.append("log", "kept")
        port = hub.port
    async with local_hub(data=tmp_path, port=port) as hub, hub.client() as client:
        assert hub.port == port
        page = await client.read("log")
    assert [message.data for message in page.items] == ["kept"]


async def test_settings_are_given_by_their_names_and_wrong_ones_are_named():
    async with local_hub(settings={"messaging.batch_max": 2}) as hub, hub.client() as client:
        with pytest.raises(HubError) as caught:
            await client.publish("news", 1, 2, 3)
        assert caught.value.fields[0].field == "messages"
    with pytest.raises(SettingsError, match=r"Did you mean messaging\.batch_max"):
        async with local_hub(settings={"messaging.batch_maximum": 2}):
            pass


PROGRAM = """
import asyncio, logging, signal
from meshway.testing import local_hub

async def main():
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers], logging.getLogger().handlers[:]
    async with local_hub():
        assert ([signal.getsignal(number) for number in numbers], logging.getLogger().handlers) == before

asyncio.run(main())
"""


def test_signals_and_logging_are_left_alone():
    # In a process of its own: here other tests may have set logging up.
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "event='hub_draining'" in done.stderr


async def test_two_hubs_run_side_by_side():
    async with local_hub() as one, local_hub() as other, one.client() as first, other.client() as second:
        await first.enqueue("orders", 1)
        assert (await first.peek("orders")).items
        assert not (await second.list_channels("queues")).items


async def test_an_error_in_the_block_comes_out_and_the_hub_is_gone():
    with pytest.raises(ZeroDivisionError):
        async with local_hub() as hub:
            raise ZeroDivisionError
    with contextlib.closing(httpx.Client()) as http, pytest.raises(httpx.ConnectError):
        http.get(f"{hub.url}/readyz")
