"""The ids that responders answer to: read by every hub of the mesh, by nobody else, and for one kind only."""

import pytest

from meshway.gateway.reply_tickets import ReplyTicket, ReplyTickets
from meshway.kernel.errors import InvalidRequest
from meshway.messaging.names import ChannelKind, ChannelName
from meshway.security.secret_box import AesGcmBox

COMMANDS, QUERIES = ChannelKind.COMMANDS, ChannelKind.QUERIES
TICKET = ReplyTicket("_inbox.0123456789abcdef.7", 1_800_000_000_000, ChannelName("orders.created"))


def tickets(secret_key=b"k" * 32):
    return ReplyTickets(AesGcmBox(secret_key))


def test_every_hub_with_the_secret_key_reads_an_id():
    text = tickets().write(COMMANDS, TICKET)
    assert tickets().read(COMMANDS, text) == TICKET


def test_the_longest_names_fit():
    ticket = ReplyTicket("_inbox." + "a" * 100, TICKET.deadline_ms, ChannelName("c" * 255))
    writer = tickets()
    assert writer.read(COMMANDS, writer.write(COMMANDS, ticket)) == ticket


def test_an_id_is_good_for_its_kind_and_its_secret_key_only():
    text = tickets().write(COMMANDS, TICKET)
    with pytest.raises(InvalidRequest, match="request_id"):
        tickets().read(QUERIES, text)
    with pytest.raises(InvalidRequest, match="request_id"):
        tickets(b"x" * 32).read(COMMANDS, text)


@pytest.mark.parametrize("place", [0, 4, 60, 115, 130, 200, -1])
def test_an_id_that_was_changed_anywhere_is_refused(place):
    text = tickets().write(COMMANDS, TICKET)
    place %= len(text)
    changed = text[:place] + ("1" if text[place] == "0" else "0") + text[place + 1 :]
    with pytest.raises(InvalidRequest):
        tickets().read(COMMANDS, changed)


def test_parts_of_two_ids_do_not_make_a_third():
    one, other = tickets(), tickets()
    first = one.write(COMMANDS, TICKET).split("~")
    second = other.write(COMMANDS, TICKET).split("~")
    with pytest.raises(InvalidRequest):
        one.read(COMMANDS, "~".join([first[0], second[1], second[2]]))
