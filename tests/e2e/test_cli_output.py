"""What the programs do with standard descriptors that are closed, full, stalled or open the wrong way round."""

import errno
import fcntl
import json
import os
import pathlib
import re
import select
import signal
import socket
import subprocess
import sys

import pytest

from conftest import PATIENCE, SOCKBROKER, SOCKBROKERD, connect, free_port, wait_until
from sockbroker.v1 import connection_pb2

FULL = f"sockbroker: writing the output failed: {os.strerror(errno.ENOSPC)}\n"
CLOSED = f"sockbroker: writing the output failed: {os.strerror(errno.EBADF)}\n"


def connections(stub):
    return stub.ListConnections(connection_pb2.ListConnectionsRequest()).connections


def read_all(s):
    data = bytearray()
    while piece := s.recv(1 << 20):
        data += piece
    return bytes(data)


def errors(result):
    """What a program that speaks JSON on stderr has said there that went wrong, and nothing else."""
    said = [json.loads(line) for line in result.stderr.splitlines()]
    assert all(line["event"] == "error" for line in said)
    return [line["text"] for line in said]


def small_pipe():
    """The ends of one that holds a page."""
    ends = os.pipe2(os.O_CLOEXEC)
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 4096)
    return ends


# --- closed -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_shell(broker):
    """run_shell(script): sh runs it with the program as $SB and the broker's address; the result."""

    def run(script):
        environment = dict(os.environ, SB=str(SOCKBROKER), SOCKBROKER_ADDRESS=broker.addresses[0])
        return subprocess.run(["sh", "-c", script], env=environment, capture_output=True, timeout=PATIENCE, check=False)

    return run


def test_a_closed_stdin_is_at_its_end_at_once(run_shell, python_peer):
    peer = python_peer(lambda s: s.sendall(b"%d bytes" % len(read_all(s))))
    for word in (f"connect {peer.host} {peer.port}", f"forward -W {peer.host}:{peer.port}"):
        result = run_shell(f"$SB {word} <&-")
        assert (result.returncode, result.stdout, result.stderr) == (0, b"0 bytes", b"")


def test_a_closed_stdout_is_an_error_that_is_said(run_shell, python_peer, stub):
    peer = python_peer(lambda s: (s.sendall(b"something"), read_all(s)))
    for word in ("ls", "ping", "--help", f"connect --detach {peer.host} {peer.port}", f"connect {peer.host} {peer.port}"):
        result = run_shell(f"$SB {word} >&- <&-")
        assert (result.returncode, result.stderr.decode()) == (1, CLOSED), word
    wait_until(lambda: not connections(stub), "nothing stays open")


def test_nothing_else_gets_the_number_of_a_closed_standard_descriptor(start_cli, directory):
    program = "import os, sys; [os.close(fd) for fd in range(3)]; os.execv(sys.argv[1], sys.argv[1:])"
    broker = subprocess.Popen(
        [sys.executable, "-c", program, SOCKBROKERD, "--listen", f"unix:{directory}/closed.sock"]
    )
    try:
        ping = start_cli("-b", f"unix:{directory}/closed.sock", "ping", "--wait", PATIENCE)
        assert ping.wait(PATIENCE) == 0, "it serves, though nobody hears that it does"
        held = [os.readlink(f"/proc/{broker.pid}/fd/{fd}") for fd in range(3)]
        assert held == ["/dev/null"] * 3
    finally:
        broker.terminate()
        assert broker.wait(PATIENCE) == 0


# --- full, or the wrong way round ---------------------------------------------------------------------------------------


def test_output_that_cannot_be_written_is_status_1_with_its_reason(run_cli, echo_server, stub):
    connection = stub.OpenConnection(
        connection_pb2.OpenConnectionRequest(host=echo_server.host, port=echo_server.port)
    ).connection
    target = (echo_server.host, echo_server.port)
    with open("/dev/full", "wb") as full:
        for words in (
            ["ls"],
            ["ls", "--quiet"],
            ["servers"],
            ["info", "--json", connection.handle.hex()],
            ["info", connection.handle.hex()],
            ["watch"],
            ["ping"],
            ["completion", "bash"],
            ["--help"],
            ["--version"],
            ["connect", "-D", *target],
            ["forward", "-W", "%s:%s" % target],
        ):
            result = run_cli(*words, stdout=full, input=b"text")
            assert (result.returncode, result.stderr.decode()) == (1, FULL), words
        result = run_cli("connect", "-zj", *target, stdout=full)
        assert (result.returncode, errors(result)) == (1, [FULL.removeprefix("sockbroker: ").strip()])


def test_output_that_nobody_reads_is_status_141_without_a_word(run_cli, echo_server):
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.close(reader)
    target = (echo_server.host, echo_server.port)
    for words in (["ls"], ["ping"], ["--help"], ["connect", "-zj", *target], ["forward", "-W", "%s:%s" % target]):
        result = run_cli(*words, stdout=writer, input=b"text")
        assert (result.returncode, result.stderr) == (141, b""), words
    os.close(writer)


def test_detach_closes_what_it_could_not_tell_the_handle_of(run_cli, python_peer, stub):
    peer = python_peer(read_all)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.close(reader)
    with open("/dev/full", "wb") as full:
        for stdout, status in ((full, 1), (writer, 141)):
            assert run_cli("connect", "--detach", peer.host, peer.port, stdout=stdout).returncode == status
            wait_until(lambda: not connections(stub), "the broker closed it")
    os.close(writer)


def test_stdin_that_cannot_be_read_is_status_1_and_no_end(run_cli, python_peer, stub):
    peer = python_peer(read_all)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with open("/dev/null", "wb") as null:
        for stdin in (null, writer):
            for words in (["connect", peer.host, peer.port], ["forward", "-W", f"{peer.host}:{peer.port}"]):
                result = run_cli(*words, stdin=stdin)
                assert result.returncode == 1, words
                assert result.stderr.decode() == f"sockbroker: reading the input failed: {os.strerror(errno.EBADF)}\n"
    os.close(reader)
    os.close(writer)
    wait_until(lambda: not connections(stub), "nothing stays open")


# --- stalled ------------------------------------------------------------------------------------------------------------


def test_a_stderr_that_nobody_reads_keeps_no_forward_waiting(start_cli, echo_server):
    reader, writer = small_pipe()
    process = start_cli("forward", "-vv", "-L", f"0:{echo_server.host}:{echo_server.port}", stderr=writer)
    said = b""
    while not (found := re.search(rb"Listening on 127\.0\.0\.1 (\d+) ", said)):
        said += os.read(reader, 1)
    # Each is worth a hundred bytes and more on stderr.
    for i in range(100):
        with connect(("127.0.0.1", int(found[1]))) as s:
            s.sendall(b"%3d" % i)
            s.shutdown(socket.SHUT_WR)
            assert read_all(s) == b"%3d" % i
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 143
    os.close(writer)
    os.close(reader)


def test_a_stalled_stdout_keeps_no_signal_waiting(start_cli, stub, python_peer):
    peer = python_peer(read_all)
    reader, writer = small_pipe()
    request = connection_pb2.OpenConnectionRequest(host=peer.host, port=peer.port)
    request.options.labels.update({f"label{i}": "x" * 200 for i in range(12)})
    for _ in range(2):
        stub.OpenConnection(request)
    process = start_cli("watch", "--json", stdout=writer)
    os.close(writer)
    # A line takes more than half of the pipe, so that the next one has no room.
    wait_until(lambda: select.select([reader], [], [], 0)[0], "the first line is there")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 143
    os.close(reader)


def test_ctrl_c_ends_attach_that_waits_for_the_other_end_of_a_fifo(start_cli, run_cli, echo_server, directory):
    handle = run_cli("connect", "--detach", echo_server.host, echo_server.port).stdout.decode().strip()
    fifo = directory / "fifo"
    os.mkfifo(fifo)
    for option in ("-o", "-i"):
        process = start_cli("attach", handle, option, fifo)
        state = f"/proc/{process.pid}/stat"
        wait_until(lambda: pathlib.Path(state).read_text().split(") ")[1][0] == "S", "it sleeps, in open(2)")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == -signal.SIGINT
        result = run_cli("attach", handle, option, fifo, "--continue")
        assert (result.returncode, b"is no regular file" in result.stderr) == (1, True)


# --- JSON ---------------------------------------------------------------------------------------------------------------


def test_with_json_a_failure_is_json_too(run_cli, echo_server, directory):
    port, path = free_port(), directory / "nobody.sock"
    refused = f"127.0.0.1 port {port} failed: {os.strerror(errno.ECONNREFUSED)}"
    for words, status, text in (
        (["connect", "-j", "127.0.0.1", port], 1, f"connect to {refused}"),
        (["connect", "-jD", "-U", path], 1, f"connect to {path} failed: {os.strerror(errno.ENOENT)}"),
        (["connect", "-j", "127.0.0.1"], 2, "connect needs a HOST and a PORT; see `sockbroker connect --help`"),
        (["-b", f"unix:{path}", "connect", "-zj", "127.0.0.1", port], 3, os.strerror(errno.ENOENT)),
        (["listen", "-j", "127.0.0.1", echo_server.port], 1, os.strerror(errno.EADDRINUSE)),
        (["attach", "-j", "abcd1234"], 1, "no connection of yours has a handle"),
        (["forward", "-j", "-L", f"127.0.0.1:{echo_server.port}:h:1"], 1, os.strerror(errno.EADDRINUSE)),
    ):
        result = run_cli(*words)
        said = errors(result)
        assert (result.returncode, len(said), result.stdout) == (status, 1, b""), (words, said)
        assert text in said[0], words


def test_z_tells_of_a_unix_socket_as_of_a_port(run_cli, unix_echo_server, echo_server, directory):
    def scan(*target):
        result = run_cli("connect", "-zj", *target)
        assert result.stderr == b""
        return result.returncode, json.loads(result.stdout)

    path, missing = unix_echo_server.path, str(directory / "nobody.sock")
    assert scan("-U", path) == (0, {"unix": path, "open": True, "peer": {"unix": path}})
    reason = os.strerror(errno.ENOENT)
    status, line = scan("-U", missing)
    assert (status, line) == (1, {"unix": missing, "open": False, "reason": line["reason"], "error": reason})
    # The same words, but for what was asked for.
    assert [*scan("127.0.0.1", echo_server.port)[1]] == ["host", "port", "open", "peer"]
    assert [*scan("127.0.0.1", free_port())[1]] == ["host", "port", "open", "reason", "error"]
