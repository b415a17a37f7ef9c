"""sockbrokerd as a process: how it starts, what it says, whom it lets in, how it ends."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import stat
import subprocess
import time

import grpc
import pytest
from conftest import PATIENCE, SOCKBROKER, SOCKBROKERD, connect, error_detail, wait_until
from sockbroker.v1 import connection_pb2 as connections
from sockbroker.v1 import error_pb2 as errors
from sockbroker.v1 import io_pb2 as io
from sockbroker.v1 import server_pb2 as servers

# The messages of grpc.health.v1 are so small that they are written out: one field, an enum.
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


def health(channel):
    return channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=PATIENCE)


def run(*arguments, **options):
    """sockbrokerd, to its end."""
    return subprocess.run(
        [SOCKBROKERD, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False, **options
    )


def open_connection(stub, peer, **options):
    request = connections.OpenConnectionRequest(host=peer.host, port=peer.port, **options)
    return stub.OpenConnection(request, timeout=PATIENCE).connection.handle


# --- start --------------------------------------------------------------------------------------------------------------


def test_each_listener_is_said_with_its_real_port_and_answers(broker, directory):
    assert broker.addresses[0] == f"unix:{directory}/broker.sock"
    assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", broker.addresses[1])
    for listener in 0, 1:
        response = broker.stub(listener).ListConnections(connections.ListConnectionsRequest(), timeout=PATIENCE)
        assert not response.connections


def test_by_default_it_listens_below_the_users_runtime_directory_for_its_owner_alone(
    start_broker, directory, unprivileged
):
    broker = start_broker(env={"XDG_RUNTIME_DIR": str(directory)}, **unprivileged)
    path = directory / "sockbroker" / "sockbroker.sock"
    assert broker.addresses == [f"unix:{path}"]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_health_and_reflection_are_served(broker):
    channel = broker.channel()
    assert health(channel) == SERVING
    # ServerReflectionRequest{list_services: "*"}
    reflect = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    answer = next(iter(reflect(iter([b"\x3a\x01*"]), timeout=PATIENCE)))
    assert b"sockbroker.v1.SocketBroker" in answer
    assert b"grpc.health.v1.Health" in answer
    # ServerReflectionRequest{file_containing_symbol: "sockbroker.v1.SocketBroker"}: what grpcurl asks next
    symbol = b"sockbroker.v1.SocketBroker"
    answer = next(iter(reflect(iter([b"\x22" + bytes([len(symbol)]) + symbol]), timeout=PATIENCE)))
    assert b"OpenUnixConnection" in answer and b"Session" in answer


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:50051"])
def test_beyond_loopback_it_refuses_to_start_and_says_why(address):
    ended = run("--listen", address, "--insecure-loopback")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "beyond loopback" in ended.stderr and "mTLS" in ended.stderr


def test_plain_tcp_must_be_asked_for_by_name():
    ended = run("--listen", "127.0.0.1:0")
    assert ended.returncode == 2
    assert "--insecure-loopback" in ended.stderr


def test_a_mistake_in_the_last_listener_leaves_nothing_behind(directory):
    ended = run("--listen", f"unix:{directory}/b.sock", "--listen", "0.0.0.0:1", "--insecure-loopback")
    assert ended.returncode == 2
    assert not (directory / "b.sock").exists()


def test_a_live_broker_keeps_its_socket_and_is_named(broker, directory):
    ended = run("--listen", f"unix:{directory}/broker.sock")
    assert ended.returncode == 1
    assert f"process {broker.pid}" in ended.stderr
    assert health(broker.channel()) == SERVING


def test_a_killed_brokers_socket_is_taken_over(start_broker, directory):
    first = start_broker("--listen", f"unix:{directory}/b.sock")
    first.signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert (directory / "b.sock").exists()
    second = start_broker("--listen", f"unix:{directory}/b.sock")
    assert health(second.channel()) == SERVING


def test_a_restarted_broker_calls_old_handles_lost_and_another_brokers_wrong(start_broker, directory, echo_server):
    first = start_broker("--listen", f"unix:{directory}/b.sock")
    handle = open_connection(first.stub(), echo_server)
    first.signal(signal.SIGKILL)
    first.wait()

    def reason(broker):
        with pytest.raises(grpc.RpcError) as error:
            broker.stub().GetConnection(connections.GetConnectionRequest(handle=handle), timeout=PATIENCE)
        return error_detail(error.value).reason

    # No --broker-id was given: the machine and the address make it the same broker.
    assert reason(start_broker("--listen", f"unix:{directory}/b.sock")) == errors.LOST
    assert reason(start_broker("--listen", f"unix:{directory}/c.sock")) == errors.WRONG_BROKER


def test_a_wrong_flag_is_status_2_and_points_to_help():
    ended = run("--lisen", "x")
    assert ended.returncode == 2
    assert "--lisen" in ended.stderr and "--help" in ended.stderr


def test_help_and_version_are_answers_not_errors():
    assert "Examples:" in run("--help").stdout
    assert re.fullmatch(r"sockbrokerd \d+\.\d+\.\d+\n", run("--version").stdout)
    assert run("--help").returncode == run("--version").returncode == 0


def test_a_limit_below_the_reserve_is_refused_at_the_start(start_broker):
    broker = start_broker(limit=200, ready=False)
    assert broker.wait() == 1
    assert "ulimit" in broker.log()


# --- socket activation --------------------------------------------------------------------------------------------------


def test_inherited_sockets_are_offered_by_name_to_the_owner(start_broker):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        broker = start_broker(pass_fds=[("web", listener.fileno())])
        address = listener.getsockname()
    stub = broker.stub()
    server = stub.StartServer(servers.StartServerRequest(sock="web"), timeout=PATIENCE).server
    assert server.sockets[0].tcp.port == address[1]
    with connect(address) as client:
        accepted = stub.Accept(servers.AcceptRequest(server=server.handle), timeout=PATIENCE).connection
        client.sendall(b"hello\n")
        assert stub.ReadLine(io.ReadLineRequest(handle=accepted.handle), timeout=PATIENCE).data == b"hello\n"
    with pytest.raises(grpc.RpcError):  # each can be taken once
        stub.StartServer(servers.StartServerRequest(sock="web"), timeout=PATIENCE)


def test_the_broker_itself_can_listen_on_an_inherited_socket(start_broker, directory):
    path = str(directory / "activated.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        broker = start_broker("--listen", "fd:control", pass_fds=[("control", listener.fileno())])
    assert broker.addresses == [f"unix:{path}"]
    assert health(broker.channel()) == SERVING
    broker.signal()
    assert broker.wait() == 0
    assert os.path.exists(path), "the file belongs to whoever made the socket"


# --- the service manager --------------------------------------------------------------------------------------------------


@pytest.fixture
def manager(directory):
    """A socket as systemd listens on one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(PATIENCE)
        yield listener


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_service_manager_is_told_when_it_serves_and_how_long_its_end_may_take(
    start_broker, directory, manager, kind
):
    path = f"{directory}/manager"
    manager.bind(path if kind == "path" else "\0" + path)
    broker = start_broker(
        "--listen", f"unix:{directory}/b.sock", "--drain-timeout", "5m",
        env={"NOTIFY_SOCKET": path if kind == "path" else "@" + path}, ready=False,
    )  # fmt: skip
    assert manager.recv(4096).decode().splitlines() == ["READY=1", f"STATUS=listening on unix:{directory}/b.sock"]
    assert subprocess.run([SOCKBROKER, "-b", f"unix:{directory}/b.sock", "ping"], check=False).returncode == 0
    broker.signal()
    assert manager.recv(4096).decode().splitlines() == [
        "STOPPING=1", "EXTEND_TIMEOUT_USEC=302000000", "STATUS=draining 0 connections, at most 5m",
    ]  # fmt: skip
    assert broker.wait() == 0


def test_a_broker_that_can_not_start_says_nothing_to_the_service_manager(directory, manager):
    manager.bind(f"{directory}/manager")
    ended = run("--listen", "fd:missing", env={**os.environ, "NOTIFY_SOCKET": f"{directory}/manager"})
    assert ended.returncode == 1
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


@pytest.mark.parametrize("name", ["{directory}/nobody", "@", "relative", "/" + 200 * "x"])
def test_a_service_manager_that_can_not_be_told_is_a_warning(start_broker, directory, name):
    name = name.format(directory=directory)
    broker = start_broker("--listen", f"unix:{directory}/b.sock", env={"NOTIFY_SOCKET": name})
    assert health(broker.channel()) == SERVING
    broker.signal()
    assert broker.wait() == 0
    assert len(re.findall(f"warn.*{name}", broker.log())) == 2


# --- the end ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well_and_without_a_trace(broker, directory, number):
    broker.signal(number)
    assert broker.wait() == 0
    assert not (directory / "broker.sock").exists()


def test_the_drain_flushes_what_was_written(broker, stub, python_peer):
    received = []
    go = []

    def slow(s):
        wait_until(lambda: go, "the test says go")
        while data := s.recv(1 << 20):
            received.append(data)
        received.append(None)

    handle = open_connection(stub, python_peer(slow))
    data = os.urandom(1 << 20)
    total = b""
    for _ in range(6):  # more than the kernel's buffers hold
        stub.Write(io.WriteRequest(handle=handle, data=data), timeout=PATIENCE)
        total += data
    broker.signal()
    wait_until(lambda: health(broker.channel()) == NOT_SERVING, "health says that it drains")
    go.append(True)
    assert broker.wait() == 0
    wait_until(lambda: received and received[-1] is None, "the peer sees the end")
    assert b"".join(received[:-1]) == total


def test_a_peer_that_never_reads_holds_the_drain_no_longer_than_its_time(start_broker, python_peer):
    done = []
    broker = start_broker("--drain-timeout", "1s")
    stub = broker.stub()
    handle = open_connection(stub, python_peer(lambda s: wait_until(lambda: done, "the test ends")))
    for _ in range(8):
        stub.Write(io.WriteRequest(handle=handle, data=bytes(1 << 20)), timeout=PATIENCE)
    begin = time.monotonic()
    broker.signal()
    assert broker.wait() == 0
    # Its own time; the rest is what a busy machine may take to run a process's last instructions.
    assert time.monotonic() - begin < 1 + 1
    done.append(True)
    assert "were reset" in broker.log()


def drain_that_lasts(start_broker, python_peer, done):
    """A broker in a drain that only a second signal ends."""
    broker = start_broker("--drain-timeout", "600s")
    stub = broker.stub()
    handle = open_connection(
        stub,
        python_peer(lambda s: wait_until(lambda: done, "the test ends")),
        options=connections.ConnectionOptions(timeouts={"close": {"seconds": 600}}),
    )
    for _ in range(8):
        stub.Write(io.WriteRequest(handle=handle, data=bytes(1 << 20)), timeout=PATIENCE)
    channel = broker.channel()
    assert health(channel) == SERVING
    broker.signal()
    wait_until(lambda: health(channel) == NOT_SERVING, "health says that it drains")
    return broker, stub, handle


def test_while_it_drains_ping_says_that_it_is_ending(start_broker, python_peer):
    done = []
    broker, _, _ = drain_that_lasts(start_broker, python_peer, done)
    ping = subprocess.run([SOCKBROKER, "-b", broker.addresses[0], "ping"], capture_output=True, text=True, check=False)
    assert (ping.returncode, ping.stdout) == (1, "")
    assert "is ending" in ping.stderr
    done.append(True)


def test_while_it_drains_nothing_is_opened_but_calls_are_answered(start_broker, python_peer):
    done = []
    broker, stub, handle = drain_that_lasts(start_broker, python_peer, done)
    with pytest.raises(grpc.RpcError) as refused:
        stub.OpenConnection(connections.OpenConnectionRequest(host="127.0.0.1", port=1), timeout=PATIENCE)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert error_detail(refused.value).reason == errors.DRAINING
    connection = stub.GetConnection(connections.GetConnectionRequest(handle=handle), timeout=PATIENCE)
    assert connection.state == connections.CONNECTION_STATE_CLOSING
    assert connection.write_buffered > 0
    done.append(True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(start_broker, python_peer, number):
    done = []
    broker, _, _ = drain_that_lasts(start_broker, python_peer, done)
    path = broker.addresses[0].removeprefix("unix:")
    broker.signal(number)
    assert broker.wait() == 128 + number
    assert not os.path.exists(path)
    done.append(True)


def test_calls_that_wait_do_not_hold_the_drain(broker, stub, echo_server):
    handle = open_connection(stub, echo_server)
    read = stub.Read.future(io.ReadRequest(handle=handle, n=1), timeout=PATIENCE)
    watch = stub.WatchConnections(connections.WatchConnectionsRequest(), timeout=PATIENCE)
    next(iter(watch))
    begin = time.monotonic()
    broker.signal()
    assert broker.wait() == 0
    assert time.monotonic() - begin < 8
    # The connection was closed under the read: that is an end or an error, not silence.
    with contextlib.suppress(grpc.RpcError):
        assert read.result().eof


def test_a_client_that_is_killed_in_the_middle_of_a_write_does_not_hurt_it(broker):
    """why: SIGPIPE, and half a frame."""
    address = ("127.0.0.1", int(broker.addresses[1].rsplit(":", 1)[1]))
    for cut in 0, 1, 10, 24, 40:
        with connect(address) as s:
            s.sendall((b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100))[:cut])
    assert health(broker.channel()) == SERVING


# --- descriptors --------------------------------------------------------------------------------------------------------


def test_without_descriptors_opens_are_refused_and_the_way_in_stays_open(start_broker, echo_server):
    broker = start_broker(limit=300)  # 256 stay reserved
    stub = broker.stub()
    handles = [open_connection(stub, echo_server) for _ in range(44)]
    for _ in range(100):
        with pytest.raises(grpc.RpcError) as refused:
            open_connection(stub, echo_server)
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error_detail(refused.value).limit_name
    assert health(broker.channel()) == SERVING  # a new way in, too
    stub.Close(connections.CloseRequest(handle=handles[0]), timeout=PATIENCE)
    stub.WaitClosed(connections.WaitClosedRequest(handle=handles[0]), timeout=PATIENCE)
    open_connection(stub, echo_server)


def test_a_flood_of_control_connections_does_not_kill_the_way_in(start_broker, directory):
    """why: with gRPC's own listener one EMFILE is the end of it (CVE-2023-4785)."""
    broker = start_broker(limit=300)
    path = broker.addresses[0].removeprefix("unix:")
    flood = [connect(path) for _ in range(350)]
    wait_until(lambda: "Too many open files" in broker.log(), "it runs out of descriptors")
    for s in flood:
        s.close()
    assert health(broker.channel()) == SERVING


# --- whom it lets in ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_is_turned_away_even_if_the_file_lets_him(broker, directory):
    path = str(directory / "broker.sock")
    os.chmod(directory, 0o755)
    os.chmod(path, 0o666)
    program = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.exit(len(s.recv(9)))"
    stranger = subprocess.run(
        ["/usr/bin/python3", "-c", program, path], user=65534, timeout=PATIENCE, check=False, capture_output=True
    )
    assert stranger.returncode in (0, 1), stranger.stderr  # closed, or reset before it could read
    wait_until(lambda: "refused a connection of user 65534" in broker.log(), "it is logged")
    assert health(broker.channel()) == SERVING


# --- the log ------------------------------------------------------------------------------------------------------------


def test_the_json_log_is_one_object_a_line_and_has_no_payload(start_broker, echo_server):
    broker = start_broker("--log-format", "json")
    stub = broker.stub()
    handle = open_connection(stub, echo_server)
    stub.Write(io.WriteRequest(handle=handle, data=b"the secret\n"), timeout=PATIENCE)
    assert stub.ReadLine(io.ReadLineRequest(handle=handle), timeout=PATIENCE).data == b"the secret\n"
    with pytest.raises(grpc.RpcError):
        stub.OpenConnection(connections.OpenConnectionRequest(host="127.0.0.1", port=1), timeout=PATIENCE)
    broker.signal()
    assert broker.wait() == 0
    lines = [json.loads(line) for line in broker.log().splitlines()]
    assert all("time" in line for line in lines)
    audit = [line["audit"] for line in lines if "audit" in line]
    assert audit == ["open", "refusal", "close"]
    assert "secret" not in broker.log()
    opened = next(line for line in lines if line.get("audit") == "open")
    assert opened["handle"] == handle.hex()
    assert str(echo_server.port) in opened["peer"]


def test_nobody_reading_its_log_does_not_stop_it(directory):
    """why: a pipe that is full or closed is the log's trouble, not the sockets'."""
    path = directory / "b.sock"
    process = subprocess.Popen(
        [SOCKBROKERD, "--listen", f"unix:{path}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout.readline().startswith(b"sockbrokerd listening on")
        process.stderr.close()
        with grpc.insecure_channel(f"unix:{path}") as channel:
            assert health(channel) == SERVING
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert not pathlib.Path(path).exists()
