"""What happens to the broker, its networks and its peers, and what is left of a transfer through it."""

import faults
import scenarios
from stack import PATIENCE


def test_a_paused_broker_goes_on_where_it_stopped(stack):
    scenarios.a_transfer_outlives(stack, stack.big, faults.Paused, "broker")


def test_a_broker_that_was_cut_off_and_rejoins_goes_on_where_it_stopped(stack):
    scenarios.a_transfer_outlives(stack, stack.big, faults.Cut, "broker", "front")


def test_a_killed_brokers_connections_are_lost_and_it_says_so(stack):
    scenarios.its_connections_are_lost(stack, faults.Killed, "broker")


def test_a_restarted_brokers_connections_are_lost_and_it_says_so(stack):
    scenarios.its_connections_are_lost(stack, faults.Stopped, "broker")


def test_a_stopped_broker_drains_and_ends_well(stack):
    with faults.Stopped(stack, "broker"):
        assert stack.inspect("broker")["State"]["ExitCode"] == 0


def test_a_slow_link_to_the_client_makes_it_slow_and_nothing_else(stack):
    scenarios.it_takes_its_time(
        stack, stack.small, 20, lambda stack, *a: faults.Slow(stack, *a, mbit=20), "broker", "front"
    )


def test_a_slow_link_to_the_back_end_makes_it_slow_and_nothing_else(stack):
    scenarios.it_takes_its_time(
        stack, stack.small, 20, lambda stack, *a: faults.Slow(stack, *a, mbit=20), "nginx", "back"
    )


def test_a_lossy_link_to_the_client_is_repaired(stack):
    scenarios.it_is_repaired(stack, stack.small, lambda stack, *a: faults.Lossy(stack, *a, percent=3), "broker", "front")


def test_a_lossy_link_to_the_back_end_is_repaired(stack):
    scenarios.it_is_repaired(stack, stack.small, lambda stack, *a: faults.Lossy(stack, *a, percent=3), "nginx", "back")


def test_a_killed_back_end_is_the_end_of_its_connections_alone(stack):
    scenarios.the_transfer_breaks_off(stack, faults.WorkersKilled, "nginx")


def test_a_client_killed_in_mid_transfer_is_followed_by_one_in_another_container(stack):
    scenarios.another_container_goes_on(stack, stack.big, faults.Killed, "client")


def test_a_session_killed_in_mid_transfer_is_taken_up_by_attach_in_another_container(stack):
    scenarios.another_container_attaches(stack, ("--wait", PATIENCE), faults.Killed, "client")


def test_a_session_of_a_client_that_was_cut_off_is_stolen_by_attach_in_another_container(stack):
    scenarios.another_container_attaches(stack, ("--steal",), faults.Cut, "client", "front")
