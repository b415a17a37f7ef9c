"""The examples of the C++ client library do what they say."""

import contextlib
import os
import re
import socket
import subprocess
import threading

import pytest
from conftest import BUILD_DIR, PATIENCE
from tls_kit import certificates, receive_line  # noqa: F401


@pytest.fixture
def example(broker):
    """example("fetch", "localhost", ...): a program of client/cpp/examples, to its end."""

    def run(name, *arguments, **options):
        return subprocess.run(
            [BUILD_DIR / f"example_client_{name}", *map(str, arguments)],
            env=dict(os.environ, SOCKBROKER_ADDRESS=broker.addresses[0]),
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            **options,
        )

    return run


def test_unix_echo_speaks_with_itself_through_the_broker(example, directory):
    done = example("unix_echo", directory / "echo.sock", "hello")
    assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr
    assert not (directory / "echo.sock").exists()


def test_starttls_is_protected_behind_the_servers_answer(example, python_peer, certificates):
    said = []

    def mail_server(s):
        s.sendall(b"220 mail ESMTP\r\n")
        said.append(receive_line(s))
        s.sendall(b"250-mail\r\n250 STARTTLS\r\n")
        said.append(receive_line(s))
        s.sendall(b"220 go ahead\r\n")
        with certificates.server_context().wrap_socket(s, server_side=True) as tls:
            said.append(receive_line(tls))
            tls.sendall(b"250-mail\r\n250 AUTH PLAIN\r\n")
            said.append(receive_line(tls))
            tls.sendall(b"221 bye\r\n")
            tls.recv(1)

    peer = python_peer(mail_server)
    done = example("starttls", "localhost", peer.port, certificates.root.certificate)
    assert (done.returncode, done.stdout) == (0, b"250 AUTH PLAIN\r\n"), done.stderr
    assert said == [b"EHLO example\r\n", b"STARTTLS\r\n", b"EHLO example\r\n", b"QUIT\r\n"]


def test_upload_tells_how_far_it_has_come(example, python_peer):
    received = []
    ended = threading.Event()

    def drain(s):
        while part := s.recv(65536):
            received.append(part)
        ended.set()

    peer = python_peer(drain)
    data = os.urandom(3_000_000)
    done = example("upload", peer.host, peer.port, input=data)
    assert done.returncode == 0, done.stderr
    steps = [int(step) for step in re.findall(rb"\r(\d+) of \d+ bytes with the broker", done.stderr)]
    assert steps and steps == sorted(steps)
    assert done.stderr.endswith(b"\nall 3000000 bytes are sent\n")
    assert ended.wait(PATIENCE)
    assert b"".join(received) == data


def test_blocking_asks_a_question(example, python_peer):
    peer = python_peer(lambda s: receive_line(s) == b"PING\r\n" and s.sendall(b"+PONG\r\n"))
    done = example("blocking", peer.host, peer.port)
    assert (done.returncode, done.stdout) == (0, b"+PONG\r\n\n"), done.stderr


def test_fetch_prints_what_it_is_given(example, python_peer):
    def web_server(s):
        assert receive_line(s) == b"GET /page HTTP/1.0\r\n"
        while receive_line(s) != b"\r\n":
            pass
        s.sendall(b"HTTP/1.0 200 OK\r\n\r\nthe page\n")

    peer = python_peer(web_server)
    done = example("fetch", peer.host, peer.port, "/page")
    assert (done.returncode, done.stdout) == (0, b"HTTP/1.0 200 OK\r\n\r\nthe page\n"), done.stderr


def test_resume_goes_on_in_another_process_with_the_next_line(example, python_peer):
    def count(s):
        for number in range(6):
            s.sendall(b"line %d\n" % number)
        s.recv(1)

    peer = python_peer(count)
    *lines, where = example("resume", peer.host, peer.port).stdout.splitlines()
    assert lines == [b"line 0", b"line 1", b"line 2"]
    *lines, _ = example("resume", where.decode()).stdout.splitlines()
    assert lines == [b"line 3", b"line 4", b"line 5"]


@contextlib.contextmanager
def serving(broker, name):
    """An example that serves until it is ended: its port."""
    server = subprocess.Popen(
        [BUILD_DIR / f"example_client_{name}"],
        env=dict(os.environ, SOCKBROKER_ADDRESS=broker.addresses[0]),
        stdout=subprocess.PIPE,
        text=True,
    )
    with server:
        try:
            yield int(server.stdout.readline().rpartition(":")[2])
        finally:
            server.terminate()


def test_the_echo_server_echoes(broker):
    with serving(broker, "echo_server") as port, socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as answer:
            assert answer.read() == b"hello"


def test_the_blocking_server_greets_each_client(broker):
    with serving(broker, "blocking_server") as port:
        clients = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(3)]
        # The last first: none waits for another.
        for number, client in reversed(list(enumerate(clients))):
            client.sendall(b"client %d\n" % number)
            with client, client.makefile("rb") as answer:
                assert answer.read() == b"Hello, client %d\n" % number
