"""Where the hub may connect to: the tricks by which others got their gateways to fetch cloud credentials."""

import asyncio
import ipaddress
import socket
import threading

import pytest

from meshway.kernel.errors import EgressDenied, InvalidRequest, UpstreamUnreachable
from meshway.security.egress import CheckedEgress
from meshway.security.settings import EgressSettings
from meshway.testing.clock import ManualClock

PRIVATE = ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "198.18.0.1", "fd12::1"]
LOOPBACK = ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]
SHARED = ["100.64.0.1", "100.127.255.255", "::ffff:100.64.0.1"]
PUBLIC = [
    "93.184.216.34",
    "8.8.8.8",
    "2606:2800:220:1::1",
    "64:ff9b::808:808",
    "::ffff:8.8.8.8",
    "172.32.0.1",
    "11.0.0.1",
]
NEVER = [
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "0.0.0.0",
    "0.1.2.3",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "ff02::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "::ffff:0:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "::169.254.169.254",
    "::7f00:1",
    "2002:a9fe:a9fe::1",
    "2002:7f00:1::",
    "2001:0:7f00:1::",
    "2001:db8::5efe:7f00:1",
    "2001:db8::200:5efe:a00:1",
]


def egress(settings: EgressSettings | None = None, *, loopback: bool = False, names=None, clock=None) -> CheckedEgress:
    def lookup(host: str) -> list[str]:
        found = (names or {}).get(host)
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found() if callable(found) else found

    rules = CheckedEgress(settings or EgressSettings(), loopback=loopback, clock=clock or ManualClock(), lookup=lookup)
    _made.append(rules)
    return rules


_made: list[CheckedEgress] = []


@pytest.fixture(autouse=True)
def _threads_end():
    yield
    for rules in _made:
        rules.close()
    _made.clear()


def url_of(address: str) -> str:
    return f"http://[{address}]:8080/a" if ":" in address else f"http://{address}:8080/a"


def denied(rules: CheckedEgress, url: str) -> bool:
    try:
        rules.check_url(url)
    except EgressDenied:
        return True
    return False


@pytest.mark.parametrize("address", NEVER)
async def test_metadata_link_local_and_their_disguises_are_never_reached(address):
    generous = EgressSettings(allow_private=True, allow=("0.0.0.0/0", "::/0", "host.example"))
    rules = egress(generous, loopback=True, names={"host.example": [address]})
    with pytest.raises(EgressDenied) as refusal:
        rules.check_url(url_of(address), field="instances.0.url")
    assert refusal.value.fields[0].field == "instances.0.url"
    for host in (address, "host.example"):
        with pytest.raises(EgressDenied):
            await rules.resolve(host, 80)


@pytest.mark.parametrize("address", PRIVATE + LOOPBACK)
async def test_private_addresses_are_for_loopback_hubs_or_by_setting(address):
    names = {"host.example": [address]}
    strict = egress(names=names)
    assert denied(strict, url_of(address))
    with pytest.raises(EgressDenied, match="allow_private"):
        await strict.resolve("host.example", 80)
    for open_rules in (
        egress(loopback=True, names=names),
        egress(EgressSettings(allow_private=True), names=names),
        egress(EgressSettings(allow=("host.example",)), names=names),
    ):
        assert await open_rules.resolve("host.example", 80) == [address]
    egress(loopback=True).check_url(url_of(address))
    assert denied(egress(EgressSettings(allow_private=False), loopback=True), url_of(address))


@pytest.mark.parametrize("address", SHARED)
async def test_carrier_nat_is_reached_only_when_its_network_is_listed(address):
    assert denied(egress(EgressSettings(allow_private=True), loopback=True), url_of(address))
    listed = egress(EgressSettings(allow=("100.64.0.0/10",)))
    listed.check_url(url_of(address))
    assert await listed.resolve(address, 80) == (str(ipaddress.ip_address(address)),)


@pytest.mark.parametrize("address", PUBLIC)
async def test_public_addresses_are_reached_from_everywhere(address):
    rules = egress(names={"host.example": [address]})
    rules.check_url(url_of(address))
    assert list(await rules.resolve("host.example", 443)) == [address]


@pytest.mark.parametrize(
    "url",
    [
        # The numeric forms that inet_aton takes and checkers overlook.
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://127.1/",
        "http://127.0.1/",
        "http://127.0.0.1./",
        "http://0127.0.0.1/",
        "http://127.0.0.01/",
        "http://256.1.1.1/",
        "http://1.2.3.4.5/",
        "http://host.0x10/",
        "http://%31%32%37.0.0.1/",
        "http://127%2e0%2e0%2e1/",
        # Signs that one parser drops or reads as another.
        "http://①②⑦.⓪.⓪.①/",
        "http://127。0。0。1/",
        "http://ⓛocalhost/",
        "http://bücher.example/",
        "http://exa\u00admple.com/",
        "http://exam\u200bple.com/",
        "http://a.example\\@127.0.0.1/",
        "http:\\\\127.0.0.1/",
        "http://a.example/\r\nHost: b",
        "http://a.example/\tx",
        "http://a.example/ x",
        " http://a.example/",
        "http://a.example/\x00",
        # User information, fragments, and what stands where the host should be.
        "http://user@a.example/",
        "http://user:pass@a.example/",
        "http://a.example@127.0.0.1/",
        "http://a.example#@127.0.0.1/",
        "http://a.example/#fragment",
        "http:///path",
        "http://:80/",
        "http://.example/",
        "http://a..example/",
        "http://-a.example/",
        "http://a.example../",
        "http://" + "a" * 64 + ".example/",
        "http://" + ".".join(["a" * 60] * 5) + "/",
        "http://a.example:0/",
        "http://a.example:65536/",
        "http://a.example:99999999999/",
        "http://a.example:80:80/",
        "http://a.example:-1/",
        "http://a.example:8o/",
        "http://a.example:/",
        "http://[::1/",
        "http://::1/",
        "http://[::1]x/",
        "http://[127.0.0.1]/",
        "http://[fe80::1%25eth0]/",
        "http://[v1.x]/",
        "http://[]/",
        # Other schemes.
        "ftp://a.example/",
        "file:///etc/passwd",
        "gopher://a.example/",
        "ws://a.example/",
        "javascript:alert(1)",
        "//a.example/",
        "a.example",
        "http:a.example",
        "",
        "http://a.example/" + "x" * 3_000,
    ],
)
def test_urls_that_two_parsers_could_read_differently_are_refused_by_field(url):
    rules = egress(EgressSettings(allow_private=True), loopback=True)
    with pytest.raises(InvalidRequest) as refusal:
        rules.check_url(url, field="url")
    assert refusal.value.fields[0].field == "url"


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example",
        "HTTPS://A.Example/",
        "http://a.example./",
        "http://my_agent:8080/a2a?tenant=x&y=%20",
        "http://xn--bcher-kva.example/",
        "http://a-b.c-d.example:65535/path;p=1/~x",
        "http://[2606:2800:220:1::1]:80/",
        "https://8.8.8.8/",
    ],
)
def test_ordinary_urls_pass(url):
    egress().check_url(url)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "agent.localhost"])
async def test_localhost_is_judged_by_name_before_it_is_dialled(host):
    assert denied(egress(), f"http://{host}:80/")
    with pytest.raises(EgressDenied, match="this machine"):
        await egress().resolve(host, 80)
    egress(loopback=True).check_url(f"http://{host}:80/")


@pytest.mark.parametrize("host", ["metadata.google.internal", "METADATA.google.internal.", "metadata", "instance-data"])
async def test_metadata_services_are_refused_by_name(host):
    rules = egress(EgressSettings(allow_private=True), loopback=True, names={host: ["8.8.8.8"]})
    assert denied(rules, f"http://{host}/computeMetadata/v1/")
    with pytest.raises(EgressDenied, match="metadata service"):
        await rules.resolve(host, 80)


async def test_a_name_that_changes_after_registration_is_judged_again_when_dialled():
    answers = {"rebind.example": [["93.184.216.34"], ["127.0.0.1"]]}
    clock = ManualClock()
    rules = egress(names={"rebind.example": lambda: answers["rebind.example"].pop(0)}, clock=clock)
    rules.check_url("http://rebind.example/")
    assert await rules.resolve("rebind.example", 80) == ["93.184.216.34"]
    clock.advance(5_001)
    with pytest.raises(EgressDenied, match=r"rebind\.example \(127\.0\.0\.1\)"):
        await rules.resolve("rebind.example", 80)


async def test_of_a_mixed_answer_only_the_allowed_addresses_are_dialled():
    rules = egress(names={"mixed.example": ["10.0.0.1", "93.184.216.34", "fe80::1%eth0", "::1", "2606:2800::1"]})
    assert await rules.resolve("mixed.example", 80) == ["93.184.216.34", "2606:2800::1"]


@pytest.mark.parametrize("host", ["127.1", "0x7f000001", "2130706433", "a b", "", "a/b", "%00", "x" * 300])
async def test_odd_hosts_are_refused_at_dial_even_if_they_were_never_checked(host):
    with pytest.raises(EgressDenied):
        await egress(loopback=True, names={host.lower(): ["8.8.8.8"]}).resolve(host, 80)


@pytest.mark.parametrize("port", [0, -1, 65_536])
async def test_ports_that_do_not_exist_are_refused(port):
    with pytest.raises(EgressDenied, match="Port"):
        await egress(loopback=True).resolve("127.0.0.1", port)


async def test_an_allowed_suffix_covers_what_is_below_it_and_nothing_beside_it():
    names = {"a.corp.example": ["10.0.0.1"], "corp.example": ["10.0.0.1"], "evilcorp.example": ["10.0.0.1"]}
    rules = egress(EgressSettings(allow=("*.corp.example",)), names=names)
    assert await rules.resolve("A.Corp.Example.", 80) == ["10.0.0.1"]
    for outside in ("corp.example", "evilcorp.example"):
        with pytest.raises(EgressDenied):
            await rules.resolve(outside, 80)


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "10.0.0.0/33", "a b", "http://a.example", "*", "", "*.", "10.0.0"])
def test_a_wrong_allow_entry_is_refused_at_start(entry):
    with pytest.raises(InvalidRequest) as refusal:
        egress(EgressSettings(allow=(entry,)))
    assert refusal.value.fields[0].field == "egress.allow"


# --- DNS ------------------------------------------------------------------------------------------------------------


async def test_an_unknown_host_is_unreachable_and_named():
    with pytest.raises(UpstreamUnreachable, match=r"'nowhere\.example' cannot be found") as refusal:
        await egress().resolve("nowhere.example", 80)
    assert not refusal.value.may_have_acted


async def test_a_name_server_that_hangs_costs_the_timeout_and_no_more():
    release = threading.Event()

    def hang() -> list[str]:
        release.wait(5)
        return ["8.8.8.8"]

    rules = egress(EgressSettings(dns_timeout_ms=50), names={"slow.example": hang})
    try:
        with pytest.raises(UpstreamUnreachable, match="within 50 ms"):
            await rules.resolve("slow.example", 80)
        release.set()
        async with asyncio.timeout(5):
            while (await _answer(rules, "slow.example")) != ["8.8.8.8"]:
                continue
    finally:
        release.set()


async def _answer(rules: CheckedEgress, host: str) -> object:
    try:
        return await rules.resolve(host, 80)
    except UpstreamUnreachable:
        return None


async def test_callers_who_ask_at_the_same_time_share_one_lookup_and_its_answer_is_kept_briefly():
    asked: list[str] = []

    def lookup() -> list[str]:
        asked.append(threading.current_thread().name)
        return ["8.8.8.8"]

    clock = ManualClock()
    rules = egress(names={"busy.example": lookup}, clock=clock)
    async with asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(rules.resolve("busy.example", 80))
    assert asked == ["meshway-dns-0"]
    clock.advance(4_999)
    await rules.resolve("busy.example", 80)
    assert len(asked) == 1
    clock.advance(1)
    await rules.resolve("busy.example", 80)
    assert len(asked) == 2


async def test_a_caller_who_leaves_does_not_take_the_answer_from_the_others():
    release = threading.Event()

    def lookup() -> list[str]:
        release.wait(5)
        return ["8.8.8.8"]

    rules = egress(names={"a.example": lookup})
    async with asyncio.TaskGroup() as group:
        leaving, staying = (group.create_task(rules.resolve("a.example", 80)) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        release.set()
        assert list(await staying) == ["8.8.8.8"]


async def test_failures_are_not_remembered():
    answers: list[object] = [OSError("temporary failure"), ValueError("odd name"), ["8.8.8.8"]]

    def lookup() -> list[str]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]

    rules = egress(names={"flaky.example": lookup})
    for _ in range(2):
        with pytest.raises(UpstreamUnreachable):
            await rules.resolve("flaky.example", 80)
    assert await rules.resolve("flaky.example", 80) == ["8.8.8.8"]


async def test_lookups_at_once_are_bounded():
    release = threading.Event()

    def hang() -> list[str]:
        release.wait(5)
        return ["8.8.8.8"]

    names = {f"h{number}.example": hang for number in range(400)}
    before = _dns_threads()
    rules = egress(EgressSettings(dns_timeout_ms=100), names=names)
    outcomes = await asyncio.gather(*(rules.resolve(name, 80) for name in names), return_exceptions=True)
    threads = _dns_threads() - before
    release.set()
    assert sum("being looked up already" in str(outcome) for outcome in outcomes) == 400 - 256
    assert len(threads) == 4


def _dns_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("meshway-dns")}


async def test_the_machines_own_resolver_finds_localhost():
    rules = CheckedEgress(EgressSettings(), loopback=True, clock=ManualClock())
    _made.append(rules)
    assert set(await rules.resolve("localhost", 80)) <= {"127.0.0.1", "::1"}
