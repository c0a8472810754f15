"""What is left of a message that waits is enough to make it again."""

import pytest

from troth.core.commands import Command, RetryTask, TaskNotSent
from troth.core.grammar.addresses import Address, PollAddress, PushAddress
from troth.core.model import PENDING, Promise, TaskKind
from troth.core.replies import ExecuteMessage, Message, UnblockMessage
from troth.core.workflow_commands import ExecuteNotSent, RetryExecute, RetryUnblock
from troth.shards.delivery.parked import Parked, Shipments
from troth.shards.delivery.shipments import STALLED, Shipment, key_of

from .delivery_world import message, render

GROUP, WORKER = PollAddress("g", None, "any"), PollAddress("g", "w", "uni")
PROMISE = Promise("a 7 unblock", 1, PENDING, 9, 5)


def stalled(shown: Message, address: Address | None) -> Shipment:
    """A message that was tried twice and waits."""
    shipment = Shipment.of(key_of(shown), shown, address, render, 2)
    shipment.state = STALLED
    shipment.empty()
    return shipment


def parts(shipment: Shipment) -> dict[str, object]:
    return {name: getattr(shipment, name) for name in Shipment.__struct_fields__}


MESSAGES: list[tuple[Message, Address | None, Command, Command | None]] = [
    (message("t", "poll://g", counter=3), GROUP, RetryTask("t", 3), TaskNotSent("t", 3)),
    (message("t", "poll://uni@g/w"), WORKER, RetryTask("t", 1), TaskNotSent("t", 1)),
    (message("t", "nowhere"), None, RetryTask("t", 1), TaskNotSent("t", 1)),
    (
        message("__notify:t", "poll://any@g/w", kind=TaskKind.NOTIFY),
        PollAddress("g", "w", "any"),
        RetryTask("__notify:t", 1),
        TaskNotSent("__notify:t", 1),
    ),
    (
        ExecuteMessage("unblock 3 w", 7, "poll://any@g", None),
        GROUP,
        RetryExecute("unblock 3 w", 7),
        ExecuteNotSent("unblock 3 w", 7),
    ),
    (
        UnblockMessage(PROMISE, "poll://uni@g/w"),
        WORKER,
        RetryUnblock(PROMISE.id, "poll://uni@g/w"),
        None,
    ),
]


@pytest.mark.parametrize(("shown", "address", "retry", "not_sent"), MESSAGES)
def test_a_message_that_waits_is_made_again(
    shown: Message, address: Address | None, retry: Command, not_sent: Command | None
) -> None:
    shipments = Shipments()
    shipment = stalled(shown, address)
    shipments.add(shipment)
    shipments.park(shipment)
    assert isinstance(shipments._by_key[shipment.id], Parked)

    looked = shipments.look(shipment.id)
    assert looked is not None
    assert parts(looked) == parts(shipment)
    assert isinstance(shipments._by_key[shipment.id], Parked), "it was only looked at"

    again = shipments.find(shipment.id)
    assert again is not None
    assert parts(again) == parts(shipment)
    assert again.retry() == retry
    assert again.not_sent() == not_sent
    assert shipments.find(shipment.id) is again
    shipments.remove(again)
    assert list(shipments) == []


def test_what_messages_for_a_receiver_have_in_common_is_one_object() -> None:
    shipments = Shipments()
    for number in range(10):
        shipment = stalled(message(str(number), "poll://g"), GROUP)
        shipments.add(shipment)
        shipments.park(shipment)
    assert len({id(found) for found in shipments._by_key.values()}) == 1


def test_a_message_that_failed_for_a_reason_stays_as_it_is() -> None:
    failed = stalled(message("f", "poll://g"), GROUP)
    failed.error = "refused"
    pushed = stalled(message("p", "https://host/"), PushAddress("https://host/", ()))
    shipments = Shipments()
    for shipment in (failed, pushed):
        shipments.add(shipment)
        shipments.park(shipment)
        assert shipments.find(shipment.id) is shipment
