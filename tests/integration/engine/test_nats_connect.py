"""How a hub gets into NATS: credentials, keys, certificates, domains, prefixes; what is wrong is said clearly."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from meshway.engine.nats.engine import NatsEngine
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.ports import (
    Ack,
    BusMessage,
    FromNew,
    FromSequence,
    KvCaughtUp,
    KvEntry,
    KvPut,
    LogAppend,
    NoResponder,
    QueueAppend,
)
from meshway.kernel.errors import EngineUnavailable
from support.nats_engine import as_operator, nats_engine, until_health
from support.nats_identities import Identity, JwtServer
from support.nats_process import NatsProcess, running_cluster, running_nats
from support.ports import free_port

# What no waiting mends is said at once, long before a start would give up.
_AT_ONCE_S = 5.0


async def _use(engine: NatsEngine) -> None:
    """Each port, once, by way of every kind of subject."""
    async with engine.log.tail("s.a", FromNew()) as tail, asyncio.timeout(10):
        await engine.key_value.write([KvPut(key="a.b", value=b"x")])
        (entry,) = await engine.key_value.get(["a.b"])
        assert entry is not None
        await engine.log.append([LogAppend(subject="s.a", message_id="1", data=b"x")])
        assert [each.message_id for each in await tail.take(1)] == ["1"]
        await engine.queue.append([QueueAppend(queue="q", message_id="m", data=b"x")])
        (lease,) = await engine.queue.lease("q", count=1, wait_ms=5_000)
        await engine.queue.settle([Ack(delivery_id=lease.delivery_id)])
        blob = await engine.blobs.put(_chunks(b"blob"), ttl_ms=60_000)
        async with engine.blobs.get(blob.sha256) as chunks:
            assert chunks is not None
            assert [chunk async for chunk in chunks] == [b"blob"]


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _refusal(settings: NatsSettings) -> str:
    """Why the engine cannot be opened, said within a bound."""
    began_s = time.monotonic()
    with pytest.raises(EngineUnavailable) as caught:
        async with nats_engine(settings):
            pass
    assert time.monotonic() - began_s < _AT_ONCE_S
    return caught.value.detail


# Who we are


async def test_a_credentials_file_lets_a_hub_in(tmp_path: Path) -> None:
    server_of = JwtServer()
    with running_nats(tmp_path / "n", options=server_of.options) as server:
        file = server_of.write_credentials(tmp_path / "hub.creds")
        async with nats_engine(NatsSettings(servers=(server.url,), credentials_file=file)) as engine:
            await _use(engine)


async def test_credentials_of_another_operator_or_none_are_refused_at_once(tmp_path: Path) -> None:
    with running_nats(tmp_path / "n", options=JwtServer().options) as server:
        file = JwtServer().write_credentials(tmp_path / "hub.creds")
        text = await _refusal(NatsSettings(servers=(server.url,), credentials_file=file))
        assert "does not let us in" in text
        assert "check credentials_file" in text
        text = await _refusal(NatsSettings(servers=(server.url,)))
        assert "of which none is set" in text


async def test_an_account_without_jetstream_is_told(tmp_path: Path) -> None:
    server_of = JwtServer(with_jetstream=False)
    with running_nats(tmp_path / "n", options=server_of.options) as server:
        file = server_of.write_credentials(tmp_path / "hub.creds")
        text = await _refusal(NatsSettings(servers=(server.url,), credentials_file=file))
        assert "This account may not use JetStream" in text


@pytest.mark.parametrize(
    ("content", "complaint"), [(None, "cannot be read"), ("user: hub", "is no credentials file: it needs the blocks")]
)
async def test_a_credentials_file_that_is_none_is_named(tmp_path: Path, content: str | None, complaint: str) -> None:
    file = tmp_path / "hub.creds"
    if content is not None:
        file.write_text(content)
    text = await _refusal(NatsSettings(servers=("nats://127.0.0.1:1",), credentials_file=str(file)))
    assert str(file) in text
    assert complaint in text


async def test_credentials_that_were_renewed_let_a_hub_in_again_without_a_restart(tmp_path: Path) -> None:
    server_of = JwtServer()
    with running_nats(tmp_path / "n", options=server_of.options) as server:
        file = server_of.write_credentials(tmp_path / "hub.creds", expires_s=2)
        async with nats_engine(NatsSettings(servers=(server.url,), credentials_file=file)) as engine:
            # First the connection is gone; why, is told by the next try.
            async with asyncio.timeout(10):
                reason = ""
                while not ("xpired" in reason or "Authorization Violation" in reason):
                    reason = await until_health(engine, writable=False)
                    await asyncio.sleep(0.02)
            server_of.write_credentials(tmp_path / "hub.creds")
            await until_health(engine, writable=True)
            await _use(engine)


async def test_the_seed_of_an_nkey_lets_a_hub_in_and_another_one_does_not(tmp_path: Path) -> None:
    known, unknown = Identity(), Identity()
    file = tmp_path / "hub.nk"
    with running_nats(tmp_path / "n", options=f"authorization: {{ users: [ {{ nkey: {known.public} }} ] }}") as server:
        settings = NatsSettings(servers=(server.url,), nkey_seed_file=str(file))
        file.write_text(f"{known.seed}\n")
        async with nats_engine(settings) as engine:
            await _use(engine)
        file.write_text(unknown.seed)
        assert "check nkey_seed_file" in await _refusal(settings)
        file.write_text(Identity("account").seed)
        assert "no seed of a user's nkey" in await _refusal(settings)


@pytest.mark.parametrize(
    ("options", "right", "wrong"),
    [
        ('user: hub, password: "s3cret"', {"user": "hub", "password": "s3cret"}, {"user": "hub", "password": "guess"}),
        ('token: "s3cret"', {"token": "s3cret"}, {"token": "guess"}),
    ],
)
async def test_a_password_or_token_lets_a_hub_in_and_a_wrong_one_does_not(
    tmp_path: Path, options: str, right: dict[str, str], wrong: dict[str, str]
) -> None:
    with running_nats(tmp_path, options=f"authorization {{ {options} }}") as server:
        async with nats_engine(NatsSettings(servers=(server.url,), **right)) as engine:
            await _use(engine)
        text = await _refusal(NatsSettings(servers=(server.url,), **wrong))
        assert "does not let us in" in text
        assert "s3cret" not in text
        assert "guess" not in text


async def test_a_user_that_may_not_use_jetstream_is_told_what_to_allow(tmp_path: Path) -> None:
    user = '{ user: hub, password: x, permissions: { publish: ["mw.>"], subscribe: ["mw.>", "_INBOX.>"] } }'
    with running_nats(tmp_path, options=f"authorization {{ users: [ {user} ] }}") as server:
        text = await _refusal(NatsSettings(servers=(server.url,), user="hub", password="x"))
        assert "allow it to publish to $JS.API.>" in text


@pytest.mark.parametrize("hears_events", [True, False], ids=["all that is asked for", "without elections"])
async def test_the_permissions_that_are_asked_for_are_enough_and_those_for_events_can_be_done_without(
    tmp_path: Path, *, hears_events: bool
) -> None:
    heard = '"mw.>", "_INBOX.>"' + (', "$JS.EVENT.>"' if hears_events else "")
    allowed = f'publish: ["$JS.API.>", "$JS.ACK.>", "mw.>"], subscribe: [{heard}]'
    user = f"{{ user: hub, password: x, permissions: {{ {allowed} }} }}"
    with running_nats(tmp_path, options=f"authorization {{ users: [ {user} ] }}") as server:
        async with nats_engine(NatsSettings(servers=(server.url,), user="hub", password="x")) as engine:
            await _use(engine)
            assert (await engine.health()).writable
            assert engine._link.hears_events is hears_events


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"token": "t", "user": "u", "password": "p"}, "set one of them"),
        ({"user": "u"}, "belong together"),
        ({"tls_key_file": "key.pem"}, "set that too"),
        ({"servers": ()}, "name at least one"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        NatsSettings(**settings)


# TLS


class _Tls:
    """Certificates of one authority, as files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._authority = trustme.CA()
        self.ca_file = str(folder / "ca.pem")
        self._authority.cert_pem.write_to_path(self.ca_file)

    def certificate(self, name: str) -> str:
        """A certificate with its key in one file."""
        file = self._folder / f"{name}.pem"
        self._authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(str(file))
        return str(file)

    def options(self, name: str = "127.0.0.1", *, verify: bool = False) -> str:
        file, asks = self.certificate(name), str(verify).lower()
        return f'tls {{ cert_file: "{file}", key_file: "{file}", ca_file: "{self.ca_file}", verify: {asks} }}'


async def test_a_hub_with_a_client_certificate_gets_in_and_one_without_or_with_a_foreign_one_does_not(
    tmp_path: Path,
) -> None:
    tls, foreign = _Tls(tmp_path / "tls"), _Tls(tmp_path / "foreign")
    with running_nats(tmp_path / "n", options=tls.options(verify=True)) as server:
        settings = NatsSettings(
            servers=(server.url,), tls_ca_file=tls.ca_file, tls_certificate_file=tls.certificate("hub")
        )
        async with nats_engine(settings) as engine:
            await _use(engine)
        text = await _refusal(NatsSettings(servers=(server.url,), tls_ca_file=tls.ca_file))
        assert "set tls_certificate_file" in text
        certificate = foreign.certificate("hub")
        text = await _refusal(
            NatsSettings(servers=(server.url,), tls_ca_file=tls.ca_file, tls_certificate_file=certificate)
        )
        assert "check tls_certificate_file" in text


async def test_a_server_whose_certificate_is_not_of_our_authority_or_for_its_address_is_refused(tmp_path: Path) -> None:
    tls, foreign = _Tls(tmp_path / "tls"), _Tls(tmp_path / "foreign")
    with running_nats(tmp_path / "n", options=tls.options()) as server:
        for ca_file in (foreign.ca_file, None):
            text = await _refusal(NatsSettings(servers=(server.url,), tls_ca_file=ca_file))
            assert "check tls_ca_file" in text
    with running_nats(tmp_path / "other", options=tls.options("elsewhere.example")) as server:
        text = await _refusal(NatsSettings(servers=(server.url,), tls_ca_file=tls.ca_file))
        assert "not valid for '127.0.0.1'" in text


async def test_nothing_is_said_in_clear_to_a_server_that_offers_no_tls(tmp_path: Path) -> None:
    tls = _Tls(tmp_path / "tls")
    with running_nats(tmp_path / "n", options="debug: true, trace: true") as server:
        settings = NatsSettings(servers=(server.url,), tls_ca_file=tls.ca_file, token="s3cret")
        assert "it offers none" in await _refusal(settings)
        assert "CONNECT" not in server.log.read_text()


async def test_tls_files_that_are_none_are_told(tmp_path: Path) -> None:
    text = await _refusal(NatsSettings(servers=("nats://127.0.0.1:1",), tls_ca_file=str(tmp_path / "ca.pem")))
    assert "TLS files" in text


# JetStream


async def test_a_server_without_jetstream_is_told(tmp_path: Path) -> None:
    with running_nats(tmp_path, jetstream=None) as server:
        assert "without JetStream" in await _refusal(NatsSettings(servers=(server.url,)))


async def test_the_jetstream_of_a_domain_is_reached_through_a_leaf_node(tmp_path: Path) -> None:
    leaf_port = free_port()
    hub_options = f'server_name: center\nleafnodes {{ listen: "127.0.0.1:{leaf_port}" }}'
    leaf_options = f'server_name: edge\nleafnodes {{ remotes: [ {{ url: "nats://127.0.0.1:{leaf_port}" }} ] }}'
    with (
        running_nats(tmp_path / "center", options=hub_options, jetstream="domain: center") as center,
        running_nats(tmp_path / "edge", options=leaf_options, jetstream="domain: edge") as edge,
    ):
        async with nats_engine(NatsSettings(servers=(edge.url,), domain="center")) as engine:
            await _use(engine)
        async with nats_engine(NatsSettings(servers=(center.url,))) as engine:
            assert len(await engine.log.read("s.a", FromSequence(1))) == 1
        text = await _refusal(NatsSettings(servers=(edge.url,), domain="centre", start_timeout_ms=1_000))
        assert "No JetStream has the domain centre; this server's own is edge" in text


async def test_more_replicas_than_servers_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        text = await _refusal(NatsSettings(servers=(server.url,), replicas=3))
        assert "set replicas to 1" in text


async def test_a_limit_above_what_the_server_may_store_is_told(tmp_path: Path) -> None:
    with running_nats(tmp_path, jetstream="max_file: 10MB") as server:
        text = await _refusal(NatsSettings(servers=(server.url,), stream_bytes_max=9_000_000))
        assert "There is no room for the streams (stream_bytes_max: 9,000,000" in text


async def test_two_meshes_on_one_server_see_nothing_of_each_other(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with (
            nats_engine(NatsSettings(servers=(server.url,), prefix="one")) as one,
            nats_engine(NatsSettings(servers=(server.url,), prefix="two")) as two,
            two.bus.subscribe(">") as heard,
            two.key_value.watch("") as events,
            two.log.tail(">", FromNew()) as tail,
        ):
            await _use(one)
            await one.queue.append([QueueAppend(queue="q", message_id="waits", data=b"")])
            await one.bus.publish([BusMessage(subject="a", data=b"one")])
            asked = BusMessage(subject="a", data=b"")
            assert isinstance(await one.bus.request(asked, timeout_ms=1_000), NoResponder)
            assert (await two.key_value.page("")).entries == []
            assert await two.log.subjects(">") == []
            assert await two.queue.lease("q", count=1) == []
            assert await two.queue_admin.queues() == []
            # What is the first to be heard is its own.
            await two.bus.publish([BusMessage(subject="a", data=b"two")])
            await two.key_value.write([KvPut(key="own", value=b"")])
            await two.log.append([LogAppend(subject="s.own", message_id="1", data=b"")])
            async with asyncio.timeout(5):
                assert [each.data for each in await heard.take(1) if isinstance(each, BusMessage)] == [b"two"]
                assert [each.subject for each in await tail.take(1)] == ["s.own"]
                shown = [await anext(events), await anext(events)]
                assert {type(event): getattr(event, "key", None) for event in shown} == {
                    KvCaughtUp: None,
                    KvEntry: "own",
                }


async def test_a_prefix_whose_subjects_another_stream_has_is_refused(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        await as_operator(server.url, "STREAM.CREATE.foreign", {"name": "foreign", "subjects": ["two.>"]})
        text = await _refusal(NatsSettings(servers=(server.url,), prefix="two"))
        assert "choose another prefix" in text


# Waiting


async def test_a_start_waits_for_a_server_that_comes_later_and_says_where_it_looks(tmp_path: Path) -> None:
    server = NatsProcess(tmp_path)
    settings = NatsSettings(servers=(server.url,), start_timeout_ms=500)
    assert f"No NATS server answers at {server.url}" in await _refusal(settings)

    async def open_and_use() -> None:
        async with nats_engine(NatsSettings(servers=(server.url,))) as engine:
            await _use(engine)

    async with asyncio.TaskGroup() as group:
        group.create_task(open_and_use())
        await asyncio.sleep(0.3)
        await asyncio.to_thread(server.start)
    server.stop()


async def test_a_start_waits_for_a_majority_and_says_so(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as servers:
        for server in servers[1:]:
            server.kill()
        text = await _refusal(NatsSettings(servers=(servers[0].url,), start_timeout_ms=1_500))
        assert text.startswith("NATS is not ready after 1.5 s")
