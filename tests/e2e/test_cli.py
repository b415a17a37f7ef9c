"""The program `sockbroker` as its users meet it: real peers, pipes, signals, exit statuses."""

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

from conftest import PATIENCE, SOCKBROKER, BreakableLink, connect, free_port, program, wait_until
from sockbroker.v1 import connection_pb2


@pytest.fixture
def start_listen(start_cli):
    """start_listen(*arguments): a `sockbroker listen --json` that listens; the process and what it said of itself."""

    def start(*arguments, **options):
        process = start_cli("listen", "--json", *arguments, **options)
        said = json.loads(process.stderr.readline())
        assert said["event"] == "listening"
        return process, said

    return start


def ended(process):
    """Its exit status, once it has ended by itself."""
    return process.wait(PATIENCE)


def read_all(s):
    data = bytearray()
    while piece := s.recv(1 << 20):
        data += piece
    return bytes(data)


def connections(stub, **filters):
    return stub.ListConnections(connection_pb2.ListConnectionsRequest(**filters)).connections


def reset(s):
    """Closes so that the other side gets a RST."""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


# --- connect: real servers ----------------------------------------------------------------------------------------------


def test_redis_commands_can_be_piped_through(run_cli, redis_server):
    commands = b"".join(b"SET key:%d value:%d\r\n" % (i, i) for i in range(1000)) + b"GET key:999\r\nQUIT\r\n"
    result = run_cli("connect", redis_server.host, redis_server.port, input=commands)
    assert result.returncode == 0, result.stderr
    assert result.stdout == b"+OK\r\n" * 1000 + b"$9\r\nvalue:999\r\n+OK\r\n"
    # The same through its Unix socket, beside what Redis's own client gets.
    result = run_cli("connect", "-U", redis_server.path, input=b"GET key:7\r\nQUIT\r\n")
    assert (result.returncode, result.stdout) == (0, b"$7\r\nvalue:7\r\n+OK\r\n")
    own = subprocess.run(
        [program("redis-cli"), "-p", str(redis_server.port), "GET", "key:7"], capture_output=True, check=True
    )
    assert own.stdout == b"value:7\n"


def test_nginx_answers_over_tcp_and_over_a_unix_socket(run_cli, nginx):
    request = b"GET / HTTP/1.1\nHost: localhost\nConnection: close\n\n"
    for target in ((nginx.host, nginx.port), ("-U", nginx.path)):
        result = run_cli("connect", "-C", *target, input=request)
        assert result.returncode == 0, result.stderr
        head, body = result.stdout.split(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body == b"<h1>It works</h1>\n"


def test_an_asyncio_server_sees_lines_and_the_end(run_cli):
    async def scenario():
        async def serve(reader, writer):
            line = await reader.readline()
            rest = await reader.read()
            writer.write(b"line %d, rest %d\n" % (len(line), len(rest)))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        async with server:
            return await loop.run_in_executor(
                None, lambda: run_cli("connect", "127.0.0.1", port, input=b"hello\n" + b"x" * 100_000)
            )

    result = asyncio.run(scenario())
    assert (result.returncode, result.stdout) == (0, b"line 6, rest 100000\n")


def test_a_quarter_of_a_gigabyte_both_ways_at_once_arrives_unchanged(start_cli, python_peer, directory):
    size = 256 << 20
    block = os.urandom(1 << 20)
    upload = directory / "upload"
    sent_hash = hashlib.sha256()
    with open(upload, "wb") as f:
        for i in range(size >> 20):
            piece = block[i * 977 :] + block[: i * 977]
            f.write(piece)
            sent_hash.update(piece)
    peer_hash, reply_hash, done = hashlib.sha256(), hashlib.sha256(), threading.Event()

    def serve(s):
        def answer():
            for i in range(size >> 20):
                piece = block[i * 1009 :] + block[: i * 1009]
                reply_hash.update(piece)
                s.sendall(piece)
            s.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=answer)
        sender.start()
        buffer = bytearray(1 << 20)
        while n := s.recv_into(buffer):
            peer_hash.update(memoryview(buffer)[:n])
        sender.join()
        done.set()

    peer = python_peer(serve)
    with open(upload, "rb") as f:
        process = start_cli("connect", peer.host, peer.port, stdin=f, stderr=None)
    got = hashlib.sha256()
    while piece := process.stdout.read1(1 << 20):
        got.update(piece)
    assert process.wait(60) == 0
    assert done.wait(PATIENCE)
    assert got.hexdigest() == reply_hash.hexdigest()
    assert peer_hash.hexdigest() == sent_hash.hexdigest()


# --- connect: both ends' ends ---------------------------------------------------------------------------------------------


def test_the_end_of_stdin_half_closes_and_the_answer_is_still_read(run_cli, python_peer):
    peer = python_peer(lambda s: s.sendall(b"%d" % len(read_all(s))))
    result = run_cli("connect", peer.host, peer.port, input=b"z" * 12345)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"12345", b"")


def test_without_half_close_the_peer_sees_no_end_until_it_ends_itself(run_cli, python_peer):
    seen = []

    def serve(s):
        s.recv(5)
        s.setblocking(False)
        try:
            seen.append(s.recv(1))
        except BlockingIOError:
            seen.append("nothing")
        s.setblocking(True)
        s.sendall(b"bye")

    peer = python_peer(serve)
    result = run_cli("connect", "--no-half-close", peer.host, peer.port, input=b"hello")
    assert (result.returncode, result.stdout) == (0, b"bye")
    assert seen == ["nothing"]


def test_stdin_is_sent_to_its_end_after_the_peers_end(start_cli, python_peer, stub):
    received = []

    def serve(s):
        s.shutdown(socket.SHUT_WR)
        received.append(read_all(s))

    peer = python_peer(serve)
    process = start_cli("connect", peer.host, peer.port)
    wait_until(lambda: any(c.at_eof for c in connections(stub)), "the peer's end arrived, and stdin is still open")
    process.stdin.write(b"late")
    process.stdin.close()
    assert ended(process) == 0
    wait_until(lambda: received, "the peer got it")
    assert received == [b"late"]


def test_q_quits_though_the_peer_goes_on(run_cli, python_peer):
    got = threading.Event()

    def serve(s):
        assert read_all(s) == b"all of it"
        got.set()
        while True:  # until the connection is gone
            s.sendall(b"and on ")

    peer = python_peer(serve)
    result = run_cli("connect", "-q", 0.1, peer.host, peer.port, input=b"all of it")
    assert result.returncode == 0
    assert got.wait(PATIENCE)


def test_w_ends_a_connection_on_which_nothing_happens(run_cli, python_peer):
    over = threading.Event()
    peer = python_peer(lambda s: (s.sendall(b"once"), read_all(s), over.wait(PATIENCE)))
    result = run_cli("connect", "-w", 0.2, peer.host, peer.port)
    over.set()
    assert (result.returncode, result.stdout) == (0, b"once")


def test_w_bounds_connecting(run_cli):
    # A listener whose queue is full answers no further SYN.
    with socket.socket() as listener, contextlib.ExitStack() as queue:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            s = queue.enter_context(socket.socket())
            s.setblocking(False)
            s.connect_ex(listener.getsockname())
        result = run_cli("connect", "-w", 0.3, *listener.getsockname())
    assert result.returncode == 1
    assert b"timed out" in result.stderr


def test_the_source_address_is_the_brokers_choice_of_ours(run_cli, python_peer):
    port = free_port()
    peer = python_peer(lambda s: s.sendall(repr(s.getpeername()).encode()))
    result = run_cli("connect", "-s", "127.0.0.2", "-p", port, peer.host, peer.port)
    assert result.stdout.decode() == repr(("127.0.0.2", port))


def test_w_bounds_the_way_to_the_broker_too(run_cli, broker):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        broker.signal(signal.SIGSTOP)
        try:
            for where in (broker.addresses[0], "127.0.0.1:%d" % silent.getsockname()[1]):
                for options in ([], ["--detach"], ["-z"]):
                    started = time.monotonic()
                    result = run_cli("-b", where, "connect", "-w", "0.3", *options, "127.0.0.1", "1")
                    assert time.monotonic() - started < 4, options
                    assert result.returncode == 3, result.stderr
                    assert f"no broker at {where}: no answer".encode() in result.stderr, result.stderr
        finally:
            broker.signal(signal.SIGCONT)


def test_a_source_port_alone_goes_with_any_address_of_the_family(run_cli, python_peer):
    peer = python_peer(lambda s: s.sendall(repr(s.getpeername()).encode()))
    for host in (peer.host, "localhost"):
        port = free_port()
        result = run_cli("connect", "-p", port, host, peer.port)
        assert result.stdout.decode() == repr(("127.0.0.1", port)), result.stderr
    taken = connect((peer.host, peer.port))
    result = run_cli("connect", "-p", taken.getsockname()[1], peer.host, peer.port)
    taken.close()
    assert result.returncode == 1
    assert b"Address already in use; without -p it is a free port\n" in result.stderr


# --- connect: what goes wrong ---------------------------------------------------------------------------------------------


def test_a_refused_connection_is_status_1_and_says_so(run_cli):
    port = free_port()
    result = run_cli("connect", "127.0.0.1", port)
    assert result.returncode == 1
    assert result.stderr.decode() == f"sockbroker: connect to 127.0.0.1 port {port} failed: Connection refused\n"


def test_an_argument_that_is_not_utf8_is_status_2_and_named(run_cli):
    # Lone surrogates are how Python passes bytes on that are no text.
    for arguments, name in (
        (["connect", "\udcff\udcfe", "80"], b"HOST"),
        (["connect", "-s", "\udcff", "127.0.0.1", "80"], b"--source"),
        (["connect", "-l", "\udcff=x", "127.0.0.1", "80"], b"--label"),
        (["connect", "--tls", "--servername", "\udcff", "127.0.0.1", "80"], b"--servername"),
        (["connect", "--tls", "--cacert", "store:\udcff", "127.0.0.1", "80"], b"--cacert"),
        (["listen", "\udcff", "0"], b"HOST"),
        (["listen", "--name", "\udcff", "0"], b"--name"),
        (["ls", "-l", "\udcff"], b"--label"),
    ):
        result = run_cli(*arguments)
        assert result.returncode == 2, arguments
        assert result.stderr.startswith(b"sockbroker: " + name) and b"UTF-8" in result.stderr, result.stderr
        assert result.stderr.count(b"\n") == 1, result.stderr


def test_a_value_the_broker_refuses_is_said_of_the_flag(run_cli):
    result = run_cli("connect", "--lease", "1000000", "127.0.0.1", "80")
    assert (result.returncode, result.stderr) == (
        1,
        b"sockbroker: connect to 127.0.0.1 port 80 failed: --lease must be 1 s to 24 h\n",
    )


def test_a_missing_unix_socket_is_status_1(run_cli, directory):
    result = run_cli("connect", "-U", directory / "nobody.sock")
    assert result.returncode == 1
    assert f"connect to {directory}/nobody.sock failed: No such file or directory" in result.stderr.decode()


def test_a_name_is_not_looked_up_when_it_is_forbidden(run_cli, echo_server):
    result = run_cli("connect", "-n", "localhost", echo_server.port)
    assert result.returncode == 1
    assert "Name or service not known" in result.stderr.decode()


def test_a_reset_is_status_1_and_what_came_before_it_is_written(run_cli, python_peer):
    def serve(s):
        s.sendall(b"before")
        assert s.recv(2) == b"go"
        reset(s)

    peer = python_peer(serve)
    result = run_cli("connect", "--no-half-close", peer.host, peer.port, input=b"go")
    assert (result.returncode, result.stdout) == (1, b"before")
    assert f"the connection to {peer.host} port {peer.port} broke: Connection reset by peer" in result.stderr.decode()


def test_a_wrong_command_line_is_status_2(run_cli):
    for words in (["connect"], ["connect", "host"], ["connect", "host", "port number"], ["connect", "h", "1", "2"]):
        result = run_cli(*words)
        assert (result.returncode, result.stderr.count(b"\n")) == (2, 1), words
    result = run_cli("lisetn", "0")
    assert result.stderr == b"sockbroker: unknown command 'lisetn'; did you mean 'listen'?\n"


def test_without_a_broker_it_is_status_3_and_says_how_to_start_one(run_cli, directory):
    result = run_cli("-b", f"unix:{directory}/none.sock", "connect", "127.0.0.1", 80)
    assert result.returncode == 3
    assert "No such file or directory; start `sockbrokerd`" in result.stderr.decode()
    assert run_cli("-b", f"127.0.0.1:{free_port()}", "ls").returncode == 3


def test_ctrl_c_closes_the_connection_and_is_status_130(start_cli, python_peer, stub):
    peer = python_peer(read_all)
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start_cli("connect", "--json", peer.host, peer.port)
        assert json.loads(process.stderr.readline())["event"] == "connected"
        assert len(connections(stub)) == 1
        process.send_signal(number)
        assert ended(process) == 128 + number
        wait_until(lambda: not connections(stub), "the broker closed it")


def test_a_stdout_that_nobody_reads_ends_it_at_once(start_cli, python_peer, stub):
    # The peer says one thing and then nothing more: nothing would be written that could fail.
    peer = python_peer(lambda s: (s.sendall(b"line\n"), read_all(s)))
    process = start_cli("connect", peer.host, peer.port)
    assert process.stdout.readline() == b"line\n"
    process.stdout.close()
    assert ended(process) == 141
    wait_until(lambda: not connections(stub), "the broker closed it")


def test_a_connection_that_someone_else_closes_is_status_1(start_cli, run_cli, python_peer):
    peer = python_peer(read_all)
    process = start_cli("connect", "--json", peer.host, peer.port)
    handle = json.loads(process.stderr.readline())["handle"]
    assert run_cli("close", handle[:10]).returncode == 0
    assert ended(process) == 1
    assert b"closed" in process.stderr.read()


def test_a_broker_that_dies_is_status_3_within_seconds(start_cli, start_broker, python_peer):
    broker = start_broker()
    peer = python_peer(read_all)
    process = start_cli("connect", "--json", peer.host, peer.port, address=broker.addresses[0])
    process.stderr.readline()
    broker.signal(signal.SIGKILL)
    broker.wait()
    assert ended(process) == 3
    assert b"lost with its broker" in process.stderr.read()


def test_a_broker_that_was_restarted_says_that_the_connection_is_lost(
    start_cli, start_broker, python_peer, directory
):
    address = f"unix:{directory}/again.sock"
    broker = start_broker("--listen", address)
    peer = python_peer(read_all)
    process = start_cli("connect", "--json", peer.host, peer.port, address=address)
    process.stderr.readline()
    broker.signal(signal.SIGKILL)
    broker.wait()
    start_broker("--listen", address)
    assert ended(process) == 1
    assert b" was restarted, and its sockets are gone" in process.stderr.read()


def test_a_link_that_is_cut_again_and_again_costs_no_byte(start_cli, broker, python_peer, directory):
    size = 24 << 20
    data = os.urandom(1 << 20) * (size >> 20)
    upload = directory / "upload"
    upload.write_bytes(data)
    received = []

    def serve(s):
        sender = threading.Thread(target=lambda: (s.sendall(data[::-1]), s.shutdown(socket.SHUT_WR)))
        sender.start()
        received.append(read_all(s))
        sender.join()

    peer = python_peer(serve)
    link = BreakableLink(broker.addresses[1])
    try:
        with open(upload, "rb") as f:
            process = start_cli("connect", peer.host, peer.port, address=link.address, stdin=f)
        got = bytearray()
        cuts = 0
        while piece := process.stdout.read1(1 << 16):
            got += piece
            if len(got) > (cuts + 1) * (size // 8):
                cuts += 1
                link.cut()
        assert ended(process) == 0, process.stderr.read()
    finally:
        link.close()
    assert cuts >= 7
    wait_until(lambda: received, "the peer got everything")
    assert hashlib.sha256(got).digest() == hashlib.sha256(data[::-1]).digest()
    assert hashlib.sha256(received[0]).digest() == hashlib.sha256(data).digest()


# --- connect -z, -v -------------------------------------------------------------------------------------------------------


def test_z_tells_which_ports_answer(run_cli, echo_server, stub):
    closed = free_port()
    result = run_cli("connect", "-zv", "127.0.0.1", closed, echo_server.port)
    assert result.returncode == 0
    lines = result.stderr.decode().splitlines()
    assert lines[0] == f"sockbroker: connect to 127.0.0.1 port {closed} failed: Connection refused"
    assert lines[1].startswith(f"Connection to 127.0.0.1 {echo_server.port} port [tcp/")
    assert lines[1].endswith("succeeded!")
    assert run_cli("connect", "-z", "127.0.0.1", closed).returncode == 1
    wait_until(lambda: not connections(stub), "nothing stays open")


def test_z_takes_ranges_and_speaks_json_in_their_order(run_cli, echo_server):
    first, last = echo_server.port - 20, min(echo_server.port + 20, 65535)
    result = run_cli("connect", "-z", "--json", "127.0.0.1", f"{first}-{last}")
    assert result.returncode == 0
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["port"] for line in lines] == list(range(first, last + 1))
    found = {line["port"]: line for line in lines}
    assert found[echo_server.port]["open"] is True
    assert all(line["reason"] == "connection_refused" for line in lines if not line["open"])


def test_v_says_how_it_went(run_cli, echo_server):
    result = run_cli("connect", "-v", "localhost", echo_server.port, input=b"12345")
    lines = result.stderr.decode().splitlines()
    assert lines[0].startswith(f"Connection to localhost (127.0.0.1) {echo_server.port} port [tcp/")
    assert lines[1] == "Sent 5 bytes, received 5"


# --- listen ---------------------------------------------------------------------------------------------------------------


def test_listen_serves_one_connection_and_ends(start_cli, stub):
    process = start_cli("listen", "127.0.0.1", 0)
    line = process.stderr.readline().decode()
    assert line.startswith("Listening on 127.0.0.1 ")
    with connect(("127.0.0.1", int(line.split()[-1]))) as s:
        s.sendall(b"question\n")
        assert process.stdout.readline() == b"question\n"
        process.stdin.write(b"answer")
        process.stdin.close()
        assert read_all(s) == b"answer"
        s.shutdown(socket.SHUT_WR)
        assert ended(process) == 0
    assert not connections(stub)


def test_listen_takes_an_asyncio_client(start_listen):
    process, said = start_listen("127.0.0.1", 0)
    process.stdin.write(b"greeting\n")
    process.stdin.close()

    async def scenario():
        reader, writer = await asyncio.open_connection("127.0.0.1", said["port"])
        line = await reader.readline()
        assert await reader.read() == b""
        writer.write(line.upper())
        writer.write_eof()
        writer.close()
        await writer.wait_closed()

    asyncio.run(scenario())
    assert process.stdout.read() == b"GREETING\n"
    assert ended(process) == 0


def test_listen_on_port_0_of_all_interfaces_has_one_port(start_listen):
    _, said = start_listen(0)
    assert len(said["sockets"]) == 1
    assert said["host"] == "0.0.0.0"


def test_listen_on_a_unix_socket(start_listen, directory):
    path = str(directory / "listen.sock")
    process, said = start_listen("-U", path)
    assert said["sockets"] == [{"unix": path}]
    process.stdin.close()
    with connect(path) as s:
        s.sendall(b"over unix")
        s.shutdown(socket.SHUT_WR)
        assert process.stdout.read() == b"over unix"
    assert ended(process) == 0
    wait_until(lambda: not os.path.exists(path), "the socket's file is gone")


def test_listen_k_serves_one_after_another_though_stdin_stays_open(start_listen):
    process, said = start_listen("-k", "127.0.0.1", 0)
    for i in range(3):
        with connect(("127.0.0.1", said["port"])) as s:
            s.sendall(b"client %d\n" % i)
            assert process.stdout.readline() == b"client %d\n" % i
            s.shutdown(socket.SHUT_WR)
            assert read_all(s) == b""
    process.send_signal(signal.SIGTERM)
    assert ended(process) == 143


def test_listen_k_goes_on_after_a_client_that_resets(start_listen):
    process, said = start_listen("-k", "127.0.0.1", 0)
    reset(connect(("127.0.0.1", said["port"])))
    with connect(("127.0.0.1", said["port"])) as s:
        s.sendall(b"next\n")
        assert process.stdout.readline() == b"next\n"


def test_a_port_that_is_taken_is_said_with_advice(run_cli, echo_server):
    result = run_cli("listen", "127.0.0.1", echo_server.port)
    assert result.returncode == 1
    assert (
        f"listen on 127.0.0.1 port {echo_server.port} failed: Address already in use; port 0 takes a free one"
        in result.stderr.decode()
    )


def test_a_path_that_is_taken_or_forbidden_is_said_with_advice_about_paths(
    run_cli, start_broker, directory, unprivileged, unix_echo_server
):
    for result, text in (
        (run_cli("listen", "-U", unix_echo_server.path), f"listen on {unix_echo_server.path} failed"),
        (run_cli("forward", "-R", f"{unix_echo_server.path}:db:1"), f"-R {unix_echo_server.path}: listening at the broker failed"),
    ):
        assert result.returncode == 1
        assert result.stderr.decode() == (
            f"sockbroker: {text}: Address already in use; "
            "`sockbroker servers` shows whether a listener of yours has it\n"
        )
    private = directory / "private"
    private.mkdir(mode=0o500)
    if not unprivileged and os.geteuid() == 0:
        pytest.skip("root may make a socket anywhere")
    weak = start_broker("--listen", f"unix:{directory}/weak.sock", **unprivileged)
    for arguments in (["listen", "-U", private / "x.sock"], ["forward", "-R", f"{private}/x.sock:db:1"]):
        result = run_cli("-b", weak.addresses[0], *arguments)
        assert result.returncode == 1
        assert result.stderr.endswith(b" failed: Permission denied; the broker may not make a socket there\n")


def test_a_port_the_broker_may_not_bind_is_said_with_the_capability(run_cli, start_broker, directory, unprivileged):
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as f:
        if int(f.read()) < 1024 or (os.geteuid() == 0 and not unprivileged):
            pytest.skip("every port may be bound here")
    weak = start_broker("--listen", f"unix:{directory}/weak.sock", **unprivileged)
    for arguments in (["listen", "127.0.0.1", "1023"], ["forward", "-R", "127.0.0.1:1023:db:1"]):
        result = run_cli("-b", weak.addresses[0], *arguments)
        assert result.returncode == 1
        assert result.stderr.endswith(
            b" failed: Permission denied; the broker may not bind this (ports below 1024 need CAP_NET_BIND_SERVICE)\n"
        )


def test_exec_joins_a_command_to_each_connection(start_listen, broker):
    command = 'echo "$SOCKBROKER_PEERADDR $SOCKBROKER_PEERPORT $SOCKBROKER_SOCKPORT $SOCKBROKER_ADDRESS"; cat'
    _, said = start_listen("-k", "127.0.0.1", 0, "--exec", command)
    for _ in range(2):
        with connect(("127.0.0.1", said["port"])) as s:
            s.sendall(b"echoed")
            s.shutdown(socket.SHUT_WR)
            host, port = s.getsockname()
            assert read_all(s).decode() == f"{host} {port} {said['port']} {broker.addresses[0]}\nechoed"


def test_exec_ends_the_connection_with_the_command_though_the_peer_is_silent(start_listen):
    process, said = start_listen("127.0.0.1", 0, "--exec", "echo done")
    with connect(("127.0.0.1", said["port"])) as s:
        assert read_all(s) == b"done\n"
        assert ended(process) == 0


def test_exec_serves_many_at_once_up_to_the_bound(start_listen):
    # Each shows up at once, and ends when its client does.
    _, said = start_listen("-k", "127.0.0.1", 0, "--exec", "echo here; cat >/dev/null", "--max-conns", 2)
    address = ("127.0.0.1", said["port"])
    with connect(address) as first, connect(address) as second, connect(address) as third:
        assert first.recv(5) == second.recv(5) == b"here\n"
        third.setblocking(False)
        with pytest.raises(BlockingIOError):
            third.recv(5)
        third.settimeout(PATIENCE)
        first.shutdown(socket.SHUT_WR)
        assert third.recv(5) == b"here\n"


def test_exec_is_told_when_its_peer_resets(start_listen, directory):
    marker = directory / "hung-up"
    # It reads nothing and says nothing: only the signal can reach it.
    command = f"trap 'touch {marker}; exit' HUP; echo ready; while :; do sleep 0.01; done"
    _, said = start_listen("-k", "127.0.0.1", 0, "--exec", command)
    s = connect(("127.0.0.1", said["port"]))
    assert s.recv(6) == b"ready\n"
    reset(s)
    wait_until(marker.exists, "the command got its SIGHUP")


def test_sigterm_ends_listen_with_its_commands(start_listen, stub):
    process, said = start_listen("-k", "127.0.0.1", 0, "--exec", "echo here; sleep 1000")
    with connect(("127.0.0.1", said["port"])) as s:
        assert s.recv(5) == b"here\n"
        process.send_signal(signal.SIGTERM)
        assert ended(process) == 143
        assert read_all(s) == b""
    wait_until(lambda: not connections(stub), "the broker closed it")


def test_an_exec_pipeline_of_many_megabytes_is_whole(start_listen):
    _, said = start_listen("127.0.0.1", 0, "--exec", "sha256sum")
    data = os.urandom(1 << 20) * 20
    with connect(("127.0.0.1", said["port"])) as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        assert read_all(s).split()[0].decode() == hashlib.sha256(data).hexdigest()


# --- ls, servers, info, close, watch ------------------------------------------------------------------------------------


def open_connection(stub, peer, **labels):
    request = connection_pb2.OpenConnectionRequest(host=peer.host, port=peer.port)
    request.options.labels.update(labels)
    return stub.OpenConnection(request).connection


def test_ls_shows_connections_and_filters_by_label(run_cli, stub, python_peer):
    peer = python_peer(read_all)
    wanted = open_connection(stub, peer, job="42")
    open_connection(stub, peer, job="43")
    table = run_cli("ls").stdout.decode().splitlines()
    assert table[0].split() == ["HANDLE", "STATE", "LOCAL", "PEER", "AGE", "RX", "TX", "LABELS"]
    assert len(table) == 3
    assert table[1].startswith(wanted.handle.hex()[:8] + "  open ")
    one = run_cli("ls", "--label", "job=42", "--json").stdout.splitlines()
    assert [json.loads(line)["handle"] for line in one] == [wanted.handle.hex()]
    assert run_cli("ls", "-q", "--label", "job").stdout.count(b"\n") == 2


def test_a_handle_may_be_abbreviated_until_it_is_ambiguous(run_cli, stub, python_peer):
    peer = python_peer(read_all)
    handles = {}
    while True:  # two that begin alike come soon enough: 65536 beginnings
        handle = open_connection(stub, peer).handle.hex()
        if handle[:4] in handles or len(handles) == 600:
            break
        handles[handle[:4]] = handle
    assert run_cli("info", handle[:20]).stdout.decode().startswith(f"handle       {handle}\n")
    if handle[:4] in handles:
        result = run_cli("info", handle[:4])
        assert result.returncode == 1
        assert b"is ambiguous" in result.stderr
        assert handle.encode() in result.stderr and handles[handle[:4]].encode() in result.stderr
    result = run_cli("info", "zz")
    assert (result.returncode, b"is not a handle" in result.stderr) == (2, True)


def test_info_tells_of_connections_and_servers(run_cli, stub, start_listen, python_peer):
    connection = open_connection(stub, python_peer(read_all))
    told = json.loads(run_cli("info", connection.handle.hex()[:12], "--json").stdout)
    assert told["handle"] == connection.handle.hex()
    assert told["state"] == "open"
    assert told["socket"]["nodelay"] is True
    _, said = start_listen("127.0.0.1", 0, "--name", "web")
    told = json.loads(run_cli("info", said["handle"][:12], "--json").stdout)
    assert (told["name"], told["is_serving"]) == ("web", True)
    assert b"listens on   127.0.0.1:" in run_cli("info", said["handle"][:12]).stdout


def test_close_flushes_and_abort_resets(run_cli, stub, python_peer):
    ends = []

    def serve(s):
        try:
            ends.append(read_all(s))
        except ConnectionResetError:
            ends.append("reset")

    peer = python_peer(serve)
    first, second = open_connection(stub, peer), open_connection(stub, peer)
    assert run_cli("close", first.handle.hex()).returncode == 0
    wait_until(lambda: len(ends) == 1, "the first ended")
    assert run_cli("close", "--abort", second.handle.hex()[:9]).returncode == 0
    wait_until(lambda: len(ends) == 2, "the second ended")
    assert ends == [b"", "reset"]
    # What is closed is remembered, and closing it again is no error.
    assert run_cli("ls").stdout.count(b"\n") == 1
    assert run_cli("ls", "--all").stdout.count(b"closed") == 2
    assert run_cli("close", first.handle.hex()).returncode == 0


def test_close_ends_a_server_and_with_clients_all_it_accepted(run_cli, start_listen):
    process, said = start_listen("-k", "127.0.0.1", 0, "--exec", "echo here; cat")
    with connect(("127.0.0.1", said["port"])) as s:
        assert s.recv(5) == b"here\n"
        table = run_cli("servers").stdout.decode().splitlines()
        assert table[1].split()[:4] == [said["handle"][:8], "-", "serving", f"127.0.0.1:{said['port']}"]
        assert run_cli("ls", "--server", said["handle"][:8], "-q").stdout.count(b"\n") == 1
        assert run_cli("close", "--clients", said["handle"][:8]).returncode == 0
        assert read_all(s) == b""
    assert ended(process) == 1
    assert b"the server was closed" in process.stderr.read()


def test_an_unknown_handle_is_status_1(run_cli):
    result = run_cli("close", "abcd1234")
    assert result.returncode == 1
    assert b"no connection or server of yours has a handle that begins with 'abcd1234'" in result.stderr


class Watch:
    """`sockbroker watch --json` and what it has said."""

    def __init__(self, start_cli, **options):
        self.process = start_cli("watch", "--json", **options)

    def next(self, kind):
        """Reads up to the first event of that kind."""
        for line in self.process.stdout:
            event = json.loads(line)
            if event["kind"] == kind:
                return event
        raise AssertionError(f"the watch ended before {kind}")


def test_watch_tells_what_exists_and_what_happens(start_cli, stub, python_peer):
    peer = python_peer(read_all)
    old = open_connection(stub, peer)
    watch = Watch(start_cli)
    event = watch.next("opened")
    assert (event["existing"], event["connection"]["handle"]) == (True, old.handle.hex())
    watch.next("synced")
    new = open_connection(stub, peer)
    event = watch.next("opened")
    assert (event["existing"], event["connection"]["handle"]) == (False, new.handle.hex())
    stub.Abort(connection_pb2.AbortRequest(handle=new.handle))
    event = watch.next("closed")
    assert event["connection"]["close_reason"] == "aborted_by_client"
    watch.process.send_signal(signal.SIGINT)
    assert ended(watch.process) == 130


def test_watch_goes_on_behind_the_last_event_after_a_broken_link(start_cli, broker, loopback_stub, python_peer):
    peer = python_peer(read_all)
    link = BreakableLink(broker.addresses[1])
    try:
        watch = Watch(start_cli, address=link.address)
        watch.next("synced")
        first = open_connection(loopback_stub, peer)
        assert watch.next("opened")["connection"]["handle"] == first.handle.hex()
        link.cut()
        second = open_connection(loopback_stub, peer)
        event = watch.next("opened")
        assert event["connection"]["handle"] == second.handle.hex(), "neither lost nor told twice"
    finally:
        link.close()


def test_watch_waits_for_a_broker_that_is_restarted(start_cli, start_broker, directory, python_peer):
    address = f"unix:{directory}/again.sock"
    broker = start_broker("--listen", address)
    watch = Watch(start_cli, address=address)
    watch.next("synced")
    broker.signal(signal.SIGKILL)
    broker.wait()
    assert b"waiting for it" in watch.process.stderr.readline()
    broker = start_broker("--listen", address)
    watch.next("gap")
    connection = open_connection(broker.stub(), python_peer(read_all))
    assert watch.next("opened")["connection"]["handle"] == connection.handle.hex()


# --- the shell's part -----------------------------------------------------------------------------------------------------


def test_the_completion_offers_handles(broker, stub, python_peer, directory):
    handle = open_connection(stub, python_peer(read_all)).handle.hex()
    script = directory / "completion"
    script.write_bytes(subprocess.run([SOCKBROKER, "completion", "bash"], capture_output=True, check=True).stdout)
    offered = subprocess.run(
        ["bash", "-c", f'source {script}; COMP_WORDS=({SOCKBROKER} close {handle[:6]}); COMP_CWORD=2; _sockbroker; '
         'echo "${COMPREPLY[@]}"'],
        env=dict(os.environ, SOCKBROKER_ADDRESS=broker.addresses[0]),
        capture_output=True,
        check=True,
    )
    assert offered.stdout.decode().strip() == handle


def test_a_full_disk_is_said(run_cli, python_peer):
    peer = python_peer(lambda s: s.sendall(b"x"))
    with open("/dev/full", "wb") as full:
        result = run_cli("connect", peer.host, peer.port, stdout=full)
    assert result.returncode == 1
    assert os.strerror(errno.ENOSPC) in result.stderr.decode()


# --- ping ---------------------------------------------------------------------------------------------------------------


def test_ping_is_status_0_of_a_broker_that_serves_and_3_of_none(run_cli, directory):
    assert (run_cli("ping").stdout, run_cli("ping").returncode) == (b"serving\n", 0)
    missing = run_cli("-b", f"unix:{directory}/none.sock", "ping")
    assert (missing.returncode, missing.stdout) == (3, b"")


def test_ping_waits_for_a_broker_that_comes(start_cli, start_broker, directory):
    ping = start_cli("-b", f"unix:{directory}/late.sock", "ping", "--wait", PATIENCE)
    # It has looked in vain: without a broker's directory nobody else opens this path.
    assert ping.poll() is None
    start_broker("--listen", f"unix:{directory}/late.sock")
    assert ended(ping) == 0
