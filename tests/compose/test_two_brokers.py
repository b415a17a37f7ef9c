"""Two brokers of one image side by side on the same networks."""

import scenarios
from test_servers import serving


def opened(stack, broker):
    return stack.python(
        "client",
        "import os; os.environ['SOCKBROKER_ADDRESS'] = sys.argv[1] + ':7400'\n"
        "print(ask.Connection(ask.broker(), 'redis', 6379).handle.hex())",
        broker,
    ).stdout.strip()


def test_each_knows_its_own_handles_and_calls_the_others_wrong(stack):
    stack.await_broker(broker="broker2")
    handles = {broker: opened(stack, broker) for broker in ("broker", "broker2")}
    for broker in handles:
        for maker, handle in handles.items():
            expected = "OK" if maker == broker else "WRONG_BROKER"
            assert scenarios.reason_of(stack, handle, broker) == expected, (maker, broker)
        listed = stack.run("client", "sockbroker", "-b", f"{broker}:7400", "ls", "-q").stdout
        assert handles[broker] in listed
        assert all(handle not in listed for maker, handle in handles.items() if maker != broker)


def test_both_serve_on_addresses_of_their_own(stack):
    with serving(stack, "client", "echo one", "broker") as one, serving(stack, "visitor", "echo two", "broker2") as two:
        for broker, port, said in ("broker", one, "one\n"), ("broker2", two, "two\n"):
            assert stack.run("visitor", "bash", "-c", f"cat </dev/tcp/{broker}/{port}").stdout == said


def test_the_end_of_one_is_not_the_others(stack):
    import faults

    handle = opened(stack, "broker2")
    with faults.Killed(stack, "broker"):
        assert scenarios.reason_of(stack, handle, "broker2") == "OK"
