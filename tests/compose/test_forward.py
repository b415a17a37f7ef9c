"""`sockbroker forward`: ports of the client's container and of the broker that lead to the other side."""

import contextlib

import faults
from stack import Program, wait_until

# Run in a container: a connection, through SOCKS5 if asked to, a PING, and what comes back.
PING = """
import socket, struct, sys
host, port = sys.argv[1], int(sys.argv[2])
s = socket.create_connection((host, port), 10)
if len(sys.argv) > 3:
    name = sys.argv[3].encode()
    s.sendall(b"\\5\\1\\0")
    assert s.recv(2) == b"\\5\\0"
    s.sendall(b"\\5\\1\\0\\3" + bytes([len(name)]) + name + struct.pack("!H", int(sys.argv[4])))
    assert s.recv(10)[:2] == b"\\5\\0"
s.sendall(b"PING\\r\\n")
print(s.makefile().readline(), end="")
"""


@contextlib.contextmanager
def forwarding(stack, *arguments):
    with Program(stack, "client", "sockbroker", "forward", *arguments) as program:
        yield program


def pings(stack, service, *arguments):
    ended = stack.run(service, "python3", "-c", PING, *arguments, check=False)
    return ended.stdout == "+PONG\n"


def test_a_port_of_the_clients_leads_to_a_back_end(stack):
    with forwarding(stack, "-L", "6380:redis:6379"):
        wait_until(lambda: pings(stack, "client", "127.0.0.1", "6380"), "redis answers at a port of the client's")


def test_a_port_of_the_clients_is_a_socks_proxy_into_the_back_end_network(stack):
    with forwarding(stack, "-D", "1080"):
        wait_until(lambda: pings(stack, "client", "127.0.0.1", "1080", "redis", "6379"), "redis answers through SOCKS")


def test_a_port_of_the_brokers_leads_to_the_client(stack):
    server = "import socket\ns = socket.create_server(('127.0.0.1', 9000))\nwhile True: s.accept()[0].sendall(b'+PONG\\r\\n')"
    with Program(stack, "client", "python3", "-c", server), forwarding(stack, "-R", "*:8081:127.0.0.1:9000"):
        wait_until(lambda: pings(stack, "visitor", "broker", "8081"), "the client answers at a port of the broker's")


def test_a_forward_is_back_when_its_broker_is(stack):
    with forwarding(stack, "-L", "6380:redis:6379"):
        wait_until(lambda: pings(stack, "client", "127.0.0.1", "6380"), "redis answers")
        with faults.Killed(stack, "broker"):
            assert not stack.answers(), "the broker can be reached: the fault was not injected"
        wait_until(lambda: pings(stack, "client", "127.0.0.1", "6380"), "redis answers again")
