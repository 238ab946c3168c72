"""Push notifications over real sockets: what a receiver sees, and where the hub does not go."""

import asyncio
import base64
import hashlib
import json
from contextlib import asynccontextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from meshway.engine.embedded import EmbeddedSettings, open_embedded_engine
from meshway.gateway.push_ports import Notification
from meshway.kernel.errors import DeadlineExceeded, EgressDenied
from meshway.kernel.metrics import NullMetrics
from meshway.security.egress import CheckedEgress
from meshway.security.settings import EgressSettings
from meshway.tasks.values import TaskState
from meshway.testing.tiny_http import HttpReply, serve_http
from meshway.upstreams.http1 import Http1Client, Http1Settings
from meshway.upstreams.webhook import WebhookSender
from support.push_rig import PATIENCE_S, PushRig, artifact_update, status_update, task_event

HTTP = {"connect_timeout_ms": 300, "address_cache_ms": 0}


class Receiver:
    """Somebody's web server. `replies` are its next answers, then it says 200."""

    def __init__(self):
        self.requests = []
        self.replies = []
        self.hold = None
        self._arrived = asyncio.Event()

    async def __call__(self, request):
        self.requests.append(request)
        self._arrived.set()
        if self.hold is not None:
            await self.hold.wait()
        return self.replies.pop(0) if self.replies else HttpReply(b"", status=200)

    async def wait(self, count):
        async with asyncio.timeout(PATIENCE_S):
            while len(self.requests) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.requests

    @property
    def numbers(self):
        return [int(request.headers["meshway-event-number"]) for request in self.requests]


@asynccontextmanager
async def hub(folder, clock, *, egress=None, timeout_ms=5_000, **options):
    """A hub with the real sender; the egress rules are asked when a URL is registered and when it is dialled."""
    egress = egress or CheckedEgress(EgressSettings(), loopback=True, clock=clock)
    client = Http1Client(settings=Http1Settings(**HTTP), egress=egress, metrics=NullMetrics())
    engine = await open_embedded_engine(folder, settings=EmbeddedSettings(), clock=clock, metrics=NullMetrics())
    try:
        sender = WebhookSender(client, timeout_ms=timeout_ms, clock=clock)
        async with PushRig(engine, clock, sender=sender, egress=egress, **options).running() as rig:
            yield rig
    finally:
        await engine.close()
        await client.aclose()
        egress.close()


@asynccontextmanager
async def _sender(egress, clock, *, timeout_ms=100):
    client = Http1Client(settings=Http1Settings(**HTTP), egress=egress, metrics=NullMetrics())
    try:
        yield WebhookSender(client, timeout_ms=timeout_ms, clock=clock)
    finally:
        await client.aclose()
        egress.close()


def _notification(url):
    return Notification(url, [(b"content-type", b"application/json")], b"{}")


def unpacked(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def claims_of(request):
    return json.loads(unpacked(request.headers["meshway-signature"].split(".")[1]))


async def test_all_events_of_a_task_arrive_in_order_signed_and_with_the_receivers_own_secrets(tmp_path, clock):
    receiver = Receiver()
    async with serve_http(receiver) as url, hub(tmp_path, clock) as rig:
        authentication = {"scheme": "Basic", "credentials": "dXNlcjpwdw=="}
        await rig.attach(url=f"{url}/hook?tenant=a", token="tok", authentication=authentication)
        events = [task_event(), status_update(), *[artifact_update(str(n)) for n in range(20)]]
        for event in [*events, status_update(TaskState.COMPLETED)]:
            await rig.append(event)
        requests = await receiver.wait(23)
        await rig.wait_empty()
        (key,) = json.loads(rig.signer.jwks())["keys"]
    assert receiver.numbers == list(range(1, 24))
    assert [json.loads(request.body) for request in requests[:-1]] == [body for _, body in events]
    public = Ed25519PublicKey.from_public_bytes(unpacked(key["x"]))
    for request in requests:
        headers = request.headers
        assert (request.method, request.path) == ("POST", "/hook")
        assert headers["content-type"] == "application/a2a+json"
        assert headers["authorization"] == "Basic dXNlcjpwdw=="
        assert headers["x-a2a-notification-token"] == "tok"
        header, payload, signature = headers["meshway-signature"].split(".")
        public.verify(unpacked(signature), f"{header}.{payload}".encode())
        claims = claims_of(request)
        assert claims["sha256"] == hashlib.sha256(request.body).hexdigest()
        assert claims["aud"] == f"{url}/hook?tenant=a"
        assert str(claims["eventNumber"]) == headers["meshway-event-number"]
    assert len({claims_of(request)["jti"] for request in requests}) == 23


async def test_a_receiver_that_fails_gets_the_same_event_again_before_any_other(tmp_path, clock):
    receiver = Receiver()
    receiver.replies = [HttpReply(b"broken", status=500), HttpReply(b"", status=503, headers={"retry-after": "7"})]
    async with serve_http(receiver) as url, hub(tmp_path, clock) as rig:
        await rig.attach(url=url)
        await rig.append(task_event(), status_update())
        await receiver.wait(1)
        await rig.wait_retrying()
        clock.advance(1_000)
        await receiver.wait(2)
        await rig.wait_retrying()
        clock.advance(7_000)
        await receiver.wait(4)
        await rig.wait_empty()
    assert receiver.numbers == [1, 1, 1, 2]
    assert receiver.requests[0].body == receiver.requests[1].body


async def test_a_receiver_that_is_gone_is_left_alone(tmp_path, clock):
    receiver = Receiver()
    receiver.replies = [HttpReply(b"", status=410)]
    async with serve_http(receiver) as url, hub(tmp_path, clock) as rig:
        await rig.attach(url=url)
        await rig.append(task_event(), status_update())
        (dead,) = await rig.wait_dead(1)
        await rig.wait_empty()
    assert "410 Gone" in dead.reason
    assert receiver.numbers == [1]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure_and_nobody_goes_where_it_leads(tmp_path, clock, status):
    elsewhere, receiver = Receiver(), Receiver()
    async with serve_http(elsewhere) as other, serve_http(receiver) as url:
        receiver.replies = [HttpReply(b"", status=status, headers={"location": other})]
        async with hub(tmp_path, clock, attempts_max=1) as rig:
            await rig.attach(url=url)
            await rig.append(task_event())
            (dead,) = await rig.wait_dead(1)
    assert f"answered {status}; redirects are not followed" in dead.reason
    assert elsewhere.requests == []


async def test_a_name_that_turns_to_this_machine_after_it_was_accepted_is_not_dialled(tmp_path, clock):
    asked = []

    def lookup(host):
        # Public where nobody answers (RFC 5737) as long as it is looked at, then the hub's own machine.
        asked.append(host)
        return ["203.0.113.7"] if len(asked) == 1 else ["127.0.0.1"]

    egress = CheckedEgress(EgressSettings(dns_cache_ms=0), loopback=False, clock=clock, lookup=lookup)
    receiver = Receiver()
    async with serve_http(receiver) as url, hub(tmp_path, clock, egress=egress, attempts_max=2) as rig:
        port = url.rpartition(":")[2]
        await rig.attach(url=f"http://rebinding.example:{port}/")
        await rig.append(task_event())
        await rig.until(lambda: _was_asked(rig, asked))
        clock.advance(1_000)
        (dead,) = await rig.wait_dead(1)
    assert "127.0.0.1" in dead.reason
    assert "loopback address" in dead.reason
    assert len(asked) == 2
    assert receiver.requests == []


async def _was_asked(rig, asked):
    return bool(asked) and rig.deliver.in_flight == 0


async def test_an_address_that_rules_of_today_forbid_is_not_dialled_though_it_was_accepted(tmp_path, clock):
    receiver = Receiver()
    async with serve_http(receiver) as url:
        async with hub(tmp_path, clock) as rig:
            await rig.attach(url=url)
        strict = CheckedEgress(EgressSettings(), loopback=False, clock=clock)
        async with hub(tmp_path, clock, egress=strict, attempts_max=1) as rig:
            await rig.append(task_event())
            (dead,) = await rig.wait_dead(1)
    assert "loopback address" in dead.reason
    assert receiver.requests == []


async def test_events_of_a_hub_that_died_before_it_queued_them_arrive_after_the_next_start(tmp_path, clock):
    receiver = Receiver()
    async with serve_http(receiver) as url:
        async with hub(tmp_path, clock) as rig:
            await rig.attach(url=url)
            await rig.append(task_event())
            await receiver.wait(1)
            await rig.wait_empty()
            await rig.write(status_update(), status_update(TaskState.COMPLETED))
        async with hub(tmp_path, clock) as rig:
            await receiver.wait(3)
            await rig.wait_empty()
    assert receiver.numbers == [1, 2, 3]


async def test_a_receiver_that_does_not_answer_costs_its_time_and_no_more(tmp_path, clock):
    receiver = Receiver()
    receiver.hold = asyncio.Event()
    async with serve_http(receiver) as url, hub(tmp_path, clock, timeout_ms=100, attempts_max=1) as rig:
        await rig.attach(url=url)
        await rig.append(task_event())
        (dead,) = await rig.wait_dead(1)
        receiver.hold.set()
    assert "attempt 1 of 1 failed" in dead.reason


async def test_an_answer_without_end_does_not_hold_up_the_next_event(tmp_path, clock):
    async def endless():
        while True:
            yield b"x" * 1_024

    receiver = Receiver()
    receiver.replies = [HttpReply(endless())]
    async with serve_http(receiver) as url, hub(tmp_path, clock) as rig:
        await rig.attach(url=url)
        await rig.append(task_event(), status_update())
        await receiver.wait(2)
        await rig.wait_empty()
    assert receiver.numbers == [1, 2]


async def test_failures_of_the_sender_are_those_of_the_port(clock):
    strict = CheckedEgress(EgressSettings(), loopback=False, clock=clock)
    open_rules = CheckedEgress(EgressSettings(), loopback=True, clock=clock)
    receiver = Receiver()
    receiver.hold = asyncio.Event()
    async with serve_http(receiver) as url, _sender(strict, clock) as refusing, _sender(open_rules, clock) as slow:
        notification = _notification(url)
        with pytest.raises(EgressDenied):
            await refusing.send(notification)
        with pytest.raises(DeadlineExceeded):
            await slow.send(notification)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("120", 120_000), ("Fri, 15 Jan 2027 08:01:00 GMT", 60_000), ("soon", None), ("-1", None), ("9" * 30, None)],
)
async def test_retry_after_is_read_as_seconds_or_as_a_date(clock, value, expected):
    receiver = Receiver()
    receiver.replies = [HttpReply(b"", status=503, headers={"retry-after": value})]
    rules = CheckedEgress(EgressSettings(), loopback=True, clock=clock)
    async with serve_http(receiver) as url, _sender(rules, clock, timeout_ms=5_000) as sender:
        answer = await sender.send(_notification(url))
    assert (answer.status, answer.retry_after_ms) == (503, expected)
