"""Create, get, list and delete: whose task it is, what is refused, and what is never shown."""

import json

import pytest

from meshway.kernel.errors import EgressDenied, Forbidden, InvalidRequest, MalformedBody, TaskNotFound
from meshway.kernel.ids import PrincipalId, TaskId
from meshway.kernel.principal import LOCAL_OPERATOR, Principal, Scope
from meshway.security.egress import CheckedEgress
from meshway.security.settings import EgressSettings
from support.push_rig import ANN, ECHO, TASK, owner_record, push_rig, status_update, task_event

BOB = Principal(PrincipalId("bob"), frozenset({Scope("call")}))
SECRETS = {"token": "tok-en", "authentication": {"scheme": "Bearer", "credentials": "s3cret"}}


@pytest.fixture
async def rig(tmp_path, clock):
    async with push_rig(tmp_path, clock) as rig:
        yield rig


async def shown(rig, principal=ANN, config_id=TASK):
    return json.loads(await rig.manage.get(principal, ECHO, TASK, config_id))


async def test_a_config_without_an_id_is_called_like_its_task(rig):
    kept = await rig.create(**SECRETS, tenant="acme")
    assert kept == {"id": TASK, "taskId": TASK, "url": "http://127.0.0.1:9/hook", "tenant": "acme", **SECRETS}
    assert await shown(rig) == kept


async def test_configs_are_listed_oldest_first_with_the_fields_of_the_specification(rig, clock):
    await rig.create(id="z")
    clock.advance(5)
    await rig.create(id="a")
    listed = json.loads(await rig.manage.list_of(ANN, ECHO, TASK))
    assert [config["id"] for config in listed["configs"]] == ["z", "a"]
    assert listed["nextPageToken"] == ""


async def test_a_deleted_config_is_not_found_and_deleting_again_is_fine(rig):
    await rig.create()
    await rig.manage.delete(ANN, ECHO, TASK, TASK)
    await rig.manage.delete(ANN, ECHO, TASK, TASK)
    with pytest.raises(TaskNotFound):
        await shown(rig)


async def test_somebody_elses_task_and_one_that_is_not_there_are_refused_in_the_same_words(rig):
    await rig.create()
    for verb in (
        lambda task: rig.manage.get(BOB, ECHO, task, TASK),
        lambda task: rig.manage.list_of(BOB, ECHO, task),
        lambda task: rig.manage.delete(BOB, ECHO, task, TASK),
        lambda task: rig.create(principal=BOB, taskId=task),
    ):
        told = []
        for task in (TASK, TaskId("never")):
            with pytest.raises(TaskNotFound) as refused:
                await verb(task)
            told.append(refused.value.detail.replace(task, "?"))
        assert told[0] == told[1]


async def test_an_admin_sees_the_config_and_not_its_secrets(rig):
    await rig.create(**SECRETS)
    seen = await shown(rig, LOCAL_OPERATOR)
    assert seen["url"] == "http://127.0.0.1:9/hook"
    assert "token" not in seen
    assert seen["authentication"] == {"scheme": "Bearer"}


async def test_a_key_that_may_not_call_may_not_look(rig):
    for principal in (Principal(PrincipalId("no")), Principal(PrincipalId("serve"), frozenset({Scope("serve", "*")}))):
        with pytest.raises(Forbidden):
            await rig.create(principal=principal)


async def test_secrets_are_sealed_in_the_store_and_open_for_no_other_config(rig):
    await rig.create(**SECRETS)
    await rig.create(id="two")
    entries = (await rig.engine.key_value.page("taskpush")).entries
    assert not any(b"s3cret" in entry.value or b"tok-en" in entry.value for entry in entries)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"url": ""}, "url"),
        ({"url": None}, "url"),
        ({"url": "ftp://receiver.example/"}, "url"),
        ({"url": "http://user:pw@receiver.example/"}, "url"),
        ({"token": "two\r\nlines"}, "token"),
        ({"token": "ünicode"}, "token"),
        ({"token": "x" * 5_000}, "token"),
        ({"id": "x" * 300}, "id"),
        ({"authentication": {"credentials": "abc"}}, "authentication.scheme"),
        ({"authentication": {"scheme": "Two Words"}}, "authentication.scheme"),
        ({"authentication": {"scheme": "Bearer", "credentials": "a\nb"}}, "authentication.credentials"),
    ],
)
async def test_what_cannot_be_sent_is_refused_by_the_name_of_its_field(rig, fields, field):
    with pytest.raises(InvalidRequest) as refused:
        await rig.create(**fields)
    assert [each.field for each in refused.value.fields] == [field]
    inline = json.dumps({"url": "http://127.0.0.1:9/"} | fields).encode()
    with pytest.raises(InvalidRequest) as refused:
        rig.manage.check_inline(inline)
    assert [each.field for each in refused.value.fields] == [f"configuration.taskPushNotificationConfig.{field}"]


@pytest.mark.parametrize(
    ("document", "error"), [(b"{", MalformedBody), (b"[]", InvalidRequest), (b"\xff", MalformedBody)]
)
async def test_what_is_no_config_is_refused(rig, document, error):
    with pytest.raises(error):
        rig.manage.check_inline(document)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://[::1]/", "http://localhost/", "http://10.0.0.1/", "http://[::ffff:127.0.0.1]/"]
)
async def test_local_receivers_are_for_hubs_that_listen_on_loopback_only(tmp_path, clock, url):
    egress = CheckedEgress(EgressSettings(), loopback=False, clock=clock)
    async with push_rig(tmp_path, clock, egress=egress) as rig:
        with pytest.raises(EgressDenied) as refused:
            await rig.create(url=url)
        assert [each.field for each in refused.value.fields] == ["url"]
        assert json.loads(await rig.manage.list_of(ANN, ECHO, TASK))["configs"] == []


async def test_a_metadata_service_is_never_a_receiver(rig):
    with pytest.raises(EgressDenied):
        await rig.create(url="http://169.254.169.254/latest/")


async def test_a_receiver_that_comes_later_hears_what_comes_from_then_on(rig):
    await rig.append(task_event(), status_update())
    await rig.create()
    await rig.append(status_update())
    await rig.receiver.wait_sent(1)
    await rig.wait_empty()
    assert rig.receiver.numbers == [3]


async def test_a_receiver_that_came_with_the_message_hears_everything(rig):
    await rig.append(task_event(), status_update())
    await rig.manage.attach(owner_record(), b'{"url":"http://127.0.0.1:9/"}', version="1.0", after=0)
    await rig.receiver.wait_sent(2)
    assert rig.receiver.numbers == [1, 2]
