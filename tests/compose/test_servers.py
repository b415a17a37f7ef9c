"""Servers that clients open in the broker."""

import contextlib
import hashlib
import json

import faults
from stack import Program, wait_until


@contextlib.contextmanager
def serving(stack, service, command, broker="broker"):
    """`sockbroker listen -k` in a container, on every interface of the broker; gives the port that the broker chose."""
    with Program(
        stack, service, "sockbroker", "-b", f"{broker}:7400", "listen", "-k", "0.0.0.0", "0", "--exec", command
    ) as program:
        said = program.read_line(program.process.stderr)
        assert said.startswith("Listening on "), said
        yield int(said.split()[-1])
        # As Ctrl-C does: it closes the server.
        program.signal("INT")
        program.wait()


def accepted(stack):
    """How many connections the broker's servers have accepted."""
    said = stack.run("visitor", "sockbroker", "servers", "--json").stdout
    return sum(int(json.loads(line).get("accepted_total", 0)) for line in said.splitlines())


def test_bytes_go_both_ways_through_a_server(stack):
    sent = hashlib.sha256(b"".join(i.to_bytes(4, "big") for i in range(250_000))).hexdigest()
    with serving(stack, "client", "sha256sum") as port:
        said = stack.run(
            "visitor", "python3", "-c",
            "import socket, sys\n"
            "s = socket.create_connection(('broker', int(sys.argv[1])))\n"
            "s.sendall(b''.join(i.to_bytes(4, 'big') for i in range(250_000)))\n"
            "s.shutdown(socket.SHUT_WR)\n"
            "print(s.makefile().read())\n", port,
        ).stdout  # fmt: skip
    assert said.split()[0] == sent


def test_a_server_outlives_its_clients_cut_network(stack):
    with serving(stack, "client", "echo still here") as port:
        with faults.Cut(stack, "client", "front"):
            assert not stack.answers("client"), "the client can reach the broker: the fault was not injected"
            # The broker accepts it; whoever is to answer is away.
            visitor = Program(stack, "visitor", "bash", "-c", f"cat </dev/tcp/broker/{port}")
            wait_until(lambda: accepted(stack) == 1, "the broker has accepted it")
        with visitor:
            assert visitor.read_line() == "still here\n"
