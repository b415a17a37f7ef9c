"""That the tests can fail: each kind of fault is left out once, the broker is bypassed once, and the very functions that the
tests call must notice."""

import faults
import pytest
import scenarios


def notices(sentence):
    return pytest.raises(AssertionError, match=sentence)


def test_a_pause_or_a_cut_that_does_not_happen_is_noticed(stack):
    with notices("the fault was not injected"):
        scenarios.a_transfer_outlives(stack, stack.big, faults.Nothing)


def test_a_kill_or_a_restart_that_does_not_happen_is_noticed(stack):
    with notices("still the same process"):
        scenarios.its_connections_are_lost(stack, faults.Nothing)


def test_a_link_that_is_not_slow_is_noticed(stack):
    with notices("the link is not slow"):
        scenarios.it_takes_its_time(stack, stack.small, 20, faults.Nothing)


def test_a_link_that_loses_nothing_is_noticed(stack):
    with notices("the link has lost 0 packets"):
        scenarios.it_is_repaired(stack, stack.small, faults.Nothing)


def test_a_back_end_that_is_not_killed_is_noticed(stack):
    with notices("it was alive"):
        scenarios.the_transfer_breaks_off(stack, faults.Nothing)


def test_a_client_that_is_not_killed_is_noticed(stack):
    with notices("the first client is alive"):
        scenarios.another_container_goes_on(stack, stack.big, faults.Nothing)
    with notices("the first client still has the broker"):
        scenarios.another_container_attaches(stack, ("--steal",), faults.Nothing)


def test_a_damaged_transfer_is_noticed(stack):
    with notices("^(?!.*not injected)"):
        scenarios.a_transfer_outlives(stack, "0" * 64, faults.Paused, "broker")


def test_a_client_on_the_back_end_network_is_noticed(stack):
    with faults.Joined(stack, "client", "back"), notices("reached without the broker"):
        scenarios.it_cannot_be_reached(stack, "redis", 6379)


def test_a_conversation_beside_the_broker_is_noticed(stack):
    def beside(stack, command):
        return stack.run(
            "client", "python3", "-c",
            "import socket, sys\n"
            "s = socket.create_connection(('redis', 6379))\n"
            "s.sendall(sys.argv[1].encode() + b'\\r\\nQUIT\\r\\n')\n"
            "print(s.makefile().read())", command,
        ).stdout  # fmt: skip

    with faults.Joined(stack, "client", "back"), notices("redis talks with somebody else"):
        scenarios.the_broker_is_the_peer(stack, beside)
