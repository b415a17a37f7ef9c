"""`sockbroker forward` between real programs: ssh's -L, -R, -D and -W with a broker in place of the far end."""

import contextlib
import getpass
import hashlib
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import threading

import pytest

from conftest import PATIENCE, SOCKBROKER, BreakableLink, connect, free_port, program, wait_until
from sockbroker.v1 import connection_pb2, server_pb2


@pytest.fixture
def start_forward(start_cli):
    """start_forward(*arguments, listeners=1): a `sockbroker forward --json` that listens; the process, and what it said
    of each listener."""

    def start(*arguments, listeners=1, **options):
        process = start_cli("forward", "--json", *arguments, **options)
        said = []
        for _ in range(listeners):
            line = process.stderr.readline()
            assert line.startswith(b'{"event":"listening"'), line
            said.append(json.loads(line))
        return process, *said

    return start


def event(process):
    return json.loads(process.stderr.readline())


def read_all(s):
    data = bytearray()
    while piece := s.recv(1 << 20):
        data += piece
    return bytes(data)


def reset(s):
    """Closes so that the other side gets a RST."""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def connections(stub):
    found, request = [], connection_pb2.ListConnectionsRequest()
    while True:
        page = stub.ListConnections(request)
        found += page.connections
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


def receive(s, size):
    data = b""
    while len(data) < size:
        piece = s.recv(size - len(data))
        assert piece, f"an early end behind {data}"
        data += piece
    return data


def servers(stub):
    return stub.ListServers(server_pb2.ListServersRequest()).servers


def redis_cli(*arguments):
    return subprocess.run([program("redis-cli"), *map(str, arguments)], capture_output=True, timeout=PATIENCE, check=True).stdout


def curl(*arguments):
    return subprocess.run(
        [program("curl"), "-sS", "--max-time", str(PATIENCE), *map(str, arguments)],
        capture_output=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )


# --- -L -------------------------------------------------------------------------------------------------------------------


def test_redis_cli_talks_through_a_local_port(start_forward, redis_server):
    _, said = start_forward("-L", f"0:127.0.0.1:{redis_server.port}")
    assert (said["forward"], said["host"]) == ("local", "127.0.0.1")
    assert said["target"] == f"127.0.0.1:{redis_server.port}"
    assert redis_cli("-p", said["port"], "SET", "k", "v") == b"OK\n"
    assert redis_cli("-p", said["port"], "GET", "k") == b"v\n"


def test_unix_paths_stand_for_either_end(start_forward, redis_server, directory):
    here = directory / "here.sock"
    _, tcp, unix, both = start_forward(
        *("-L", f"0:{redis_server.path}", "-L", f"{here}:127.0.0.1:{redis_server.port}"),
        *("-L", f"{directory}/both.sock:{redis_server.path}"),
        listeners=3,
    )
    assert redis_cli("-p", tcp["port"], "PING") == b"PONG\n"
    assert unix["sockets"] == [{"unix": str(here)}]
    assert os.stat(here).st_mode & 0o777 == 0o600, "its owner's alone, as ssh makes it"
    assert redis_cli("-s", here, "PING") == b"PONG\n"
    assert redis_cli("-s", both["sockets"][0]["unix"], "PING") == b"PONG\n"


def test_many_forwards_share_one_session(start_forward, echo_server, stub):
    specs = [word for _ in range(20) for word in ("-L", f"0:{echo_server.host}:{echo_server.port}")]
    _, *said = start_forward(*specs, listeners=20)
    assert len({s["port"] for s in said}) == 20
    for s in said:
        with contextlib.closing(connect(("127.0.0.1", s["port"]))) as c:
            c.sendall(b"hello")
            assert c.recv(5) == b"hello"
    wait_until(lambda: not connections(stub), "all connections are gone from the broker")


def test_half_close_goes_through_in_both_directions(start_forward, python_peer, stub):
    def answer_at_the_end(s):
        s.sendall(b"%d bytes" % len(read_all(s)))

    peer = python_peer(answer_at_the_end)
    _, said = start_forward("-L", f"0:{peer.host}:{peer.port}")
    with contextlib.closing(connect(("127.0.0.1", said["port"]))) as c:
        c.sendall(b"x" * 1_000_000)
        c.shutdown(socket.SHUT_WR)
        assert read_all(c) == b"1000000 bytes"

    heard = []

    def end_first(s):
        s.sendall(b"only this")
        s.shutdown(socket.SHUT_WR)
        heard.append(read_all(s))

    peer = python_peer(end_first)
    _, said = start_forward("-L", f"0:{peer.host}:{peer.port}")
    with contextlib.closing(connect(("127.0.0.1", said["port"]))) as c:
        assert read_all(c) == b"only this"
        c.sendall(b"still spoken to")
    wait_until(lambda: heard == [b"still spoken to"], "the peer heard what came after its own end")
    wait_until(lambda: not connections(stub), "both directions' ends have ended the connection")


def test_a_reset_by_the_peer_is_a_reset_here_behind_its_bytes(start_forward, python_peer):
    go = threading.Event()

    def serve(s):
        s.sendall(b"last words")
        assert go.wait(PATIENCE)
        reset(s)

    peer = python_peer(serve)
    _, said = start_forward("-L", f"0:{peer.host}:{peer.port}")
    with contextlib.closing(connect(("127.0.0.1", said["port"]))) as c:
        assert c.recv(100) == b"last words"
        go.set()
        with pytest.raises(ConnectionResetError):
            c.recv(100)


def test_a_reset_here_is_a_reset_at_the_peer(start_forward, python_peer):
    outcome = []

    def serve(s):
        s.sendall(b"hello")
        try:
            outcome.append(read_all(s))
        except ConnectionResetError:
            outcome.append("reset")

    peer = python_peer(serve)
    _, said = start_forward("-L", f"0:{peer.host}:{peer.port}")
    c = connect(("127.0.0.1", said["port"]))
    assert c.recv(100) == b"hello"
    reset(c)
    wait_until(lambda: outcome == ["reset"], "the peer has seen the reset")


def test_what_nobody_listens_at_resets_and_is_told(start_forward):
    closed = free_port()
    process, said = start_forward("-L", f"0:127.0.0.1:{closed}")
    with contextlib.closing(connect(("127.0.0.1", said["port"]))) as c:
        with pytest.raises(ConnectionResetError):
            c.recv(1)
    assert event(process)["text"].endswith(f"connect to 127.0.0.1:{closed} failed: Connection refused")


def test_500_connections_at_once_each_get_their_own_bytes(start_forward, echo_server, stub):
    _, said = start_forward("-L", f"0:{echo_server.host}:{echo_server.port}")
    clients = [connect(("127.0.0.1", said["port"])) for _ in range(500)]
    try:
        blocks = [hashlib.sha256(b"%d" % i).digest() * 512 for i in range(500)]
        for client, block in zip(clients, blocks):
            client.sendall(block)
        for client, block in zip(clients, blocks):
            got = bytearray()
            while len(got) < len(block):
                piece = client.recv(1 << 16)
                assert piece, "no early end"
                got += piece
            assert got == block
        assert len(connections(stub)) == 500
        for client in clients:
            client.shutdown(socket.SHUT_WR)
        for client in clients:
            assert client.recv(1) == b""
    finally:
        for client in clients:
            client.close()
    wait_until(lambda: not connections(stub), "all connections are gone from the broker")


# --- -R -------------------------------------------------------------------------------------------------------------------


def test_a_port_of_the_brokers_leads_to_nginx_here(start_forward, nginx, stub):
    process, tcp, unix = start_forward(
        "-R", f"0:127.0.0.1:{nginx.port}", "-R", f"127.0.0.1:0:{nginx.path}", "-l", "job=r", listeners=2
    )
    assert tcp["forward"] == unix["forward"] == "remote"
    for said in (tcp, unix):
        assert curl(f"http://127.0.0.1:{said['port']}/").stdout == b"<h1>It works</h1>\n"
    assert sorted(s.sockets[0].tcp.port for s in servers(stub)) == sorted((tcp["port"], unix["port"]))
    assert all(s.options.labels["job"] == "r" for s in servers(stub))
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    assert not servers(stub), "they do not stay for their leases"


def test_a_connection_to_the_broker_is_reset_when_nobody_listens_here(start_forward):
    process, said = start_forward("-R", f"0:127.0.0.1:{free_port()}")
    with contextlib.closing(connect(("127.0.0.1", said["port"]))) as c:
        with pytest.raises(ConnectionResetError):
            c.recv(1)
    assert "Connection refused" in event(process)["text"]


def test_a_broker_that_was_restarted_listens_again(start_broker, start_cli, echo_server, directory):
    address = f"unix:{directory}/again.sock"
    first = start_broker("--listen", address)
    process = start_cli("forward", "--json", "-R", f"0:{echo_server.host}:{echo_server.port}", address=address)
    port = event(process)["port"]
    first.signal(signal.SIGKILL)
    first.wait()
    start_broker("--listen", address)
    said = []
    while not said or said[-1]["event"] != "listening":
        said.append(event(process))
    assert said[-1]["port"] == port, "what the kernel chose first stays"
    assert len(said[-1]["sockets"]) == 1, "in its one family"
    assert [s["up"] for s in said if s["event"] == "link"] == [False, True]
    with contextlib.closing(connect(("127.0.0.1", port))) as c:
        c.sendall(b"hello")
        assert c.recv(5) == b"hello"


def test_unix_paths_stand_for_either_end_at_the_broker_too(start_forward, echo_server, unix_echo_server, directory):
    there = directory / "there.sock"
    process, path, port, both, abstract = start_forward(
        *("-R", f"{there}:{echo_server.host}:{echo_server.port}", "-R", f"127.0.0.1:0:{unix_echo_server.path}"),
        *("-R", f"{directory}/both.sock:{unix_echo_server.path}"),
        *("-R", f"@{directory.name}:{unix_echo_server.path}"),
        listeners=4,
    )
    assert path["sockets"] == [{"unix": str(there)}]
    assert os.stat(there).st_mode & 0o777 == 0o600, "its owner's alone, as ssh makes it"
    for address in (str(there), ("127.0.0.1", port["port"]), both["sockets"][0]["unix"], f"\0{directory.name}"):
        with contextlib.closing(connect(address)) as c:
            c.sendall(b"hello")
            assert receive(c, 5) == b"hello"
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    assert not there.exists()


@pytest.mark.parametrize("option", ["-L", "-R"])
@pytest.mark.parametrize(
    "bind, hosts, reached",
    [
        ("", ["127.0.0.1", "::1"], ["127.0.0.1", "::1"]),
        ("localhost:", ["127.0.0.1", "::1"], ["127.0.0.1", "::1"]),
        ("127.0.0.1:", ["127.0.0.1"], ["127.0.0.1"]),
        ("[::1]:", ["::1"], ["::1"]),
        ("*:", ["0.0.0.0", "::"], ["127.0.0.1", "127.0.0.2", "::1"]),
        (":", ["0.0.0.0", "::"], ["127.0.0.1", "127.0.0.2", "::1"]),
    ],
)
def test_bind_chooses_the_interfaces(start_forward, echo_server, option, bind, hosts, reached):
    port = free_port()
    _, said = start_forward(option, f"{bind}{port}:{echo_server.host}:{echo_server.port}")
    assert sorted(s["host"] for s in said["sockets"]) == hosts
    assert {s["port"] for s in said["sockets"]} == {port}
    for host in reached:
        with contextlib.closing(socket.create_connection((host, port), PATIENCE)) as c:
            c.sendall(b"hello")
            assert receive(c, 5) == b"hello"


def test_what_may_not_be_bound_here_is_said(run_cli, start_broker, directory, unprivileged):
    if not unprivileged and os.geteuid() == 0:
        pytest.skip("root may bind anything")
    private = directory / "private"
    private.mkdir(mode=0o500)
    weak = start_broker("--listen", f"unix:{directory}/weak.sock", **unprivileged).addresses[0]
    result = run_cli("-b", weak, "forward", "-L", f"{private}/x.sock:db:1", cwd="/", **unprivileged)
    assert (result.returncode, result.stderr.decode()) == (1, f"sockbroker: -L {private}/x.sock: Permission denied\n")
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as f:
        if int(f.read()) < 1024:
            pytest.skip("every port may be bound here")
    result = run_cli("-b", weak, "forward", "-L", "127.0.0.1:1023:db:1", cwd="/", **unprivileged)
    assert (result.returncode, result.stderr) == (
        1,
        b"sockbroker: -L 127.0.0.1:1023: Permission denied; take a port above 1023\n",
    )


# --- -D -------------------------------------------------------------------------------------------------------------------


def test_curl_goes_through_socks_by_name_and_by_address(start_forward, nginx):
    _, said = start_forward("-D", "0")
    assert said["forward"] == "dynamic"
    proxy = f"127.0.0.1:{said['port']}"
    for way, host in (("--socks5-hostname", "localhost"), ("--socks5", "127.0.0.1"), ("--socks5-hostname", "127.0.0.1")):
        result = curl(way, proxy, f"http://{host}:{nginx.port}/")
        assert result.stdout == b"<h1>It works</h1>\n", result.stderr


def test_curl_is_told_why_socks_could_not_connect(start_forward):
    _, said = start_forward("-D", "0")
    proxy = f"127.0.0.1:{said['port']}"
    refused = curl("--socks5-hostname", proxy, f"http://127.0.0.1:{free_port()}/")
    # curl's words for the reply codes 5 and 4 of RFC 1928.
    assert refused.returncode == 97 and b"(5)" in refused.stderr, refused.stderr
    unknown = curl("--socks5-hostname", proxy, "http://no-such-name.invalid/")
    assert unknown.returncode == 97 and b"(4)" in unknown.stderr, unknown.stderr


def test_socks_takes_an_ipv6_address(start_forward):
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with listener:
        _, said = start_forward("-D", "0")
        with contextlib.closing(connect(("127.0.0.1", said["port"]))) as c:
            c.sendall(b"\x05\x01\x00\x05\x01\x00\x04" + socket.inet_pton(socket.AF_INET6, "::1")
                      + struct.pack("!H", listener.getsockname()[1]) + b"early")
            peer, _ = listener.accept()
            with peer:
                assert receive(peer, 5) == b"early", "what stands behind the request is the peer's"
                reply = receive(c, 2 + 22)
                assert reply[:6] == b"\x05\x00\x05\x00\x00\x04"
                assert struct.unpack("!H", reply[-2:])[0] == peer.getpeername()[1], "the broker's end"


def test_socks_refuses_what_it_cannot_and_survives_rubbish(start_forward, echo_server):
    process, said = start_forward("-D", "0")

    def answer(data, end=True):
        with contextlib.closing(connect(("127.0.0.1", said["port"]))) as c:
            c.sendall(data)
            if end:
                c.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                return read_all(c)
            return b""

    local = b"\x01\x7f\x00\x00\x01\x00\x50"
    assert answer(b"\x05\x01\x00\x05\x02\x00" + local, end=False)[:4] == b"\x05\x00\x05\x07", "BIND"
    assert answer(b"\x05\x01\x00\x05\x03\x00" + local, end=False)[:4] == b"\x05\x00\x05\x07", "UDP"
    assert answer(b"\x05\x01\x02", end=False) == b"\x05\xff", "a password"
    assert answer(b"\x05\x01\x00\x05\x01\x00\x03\x02\xff\xfe\x00\x50", end=False)[:4] == b"\x05\x00\x05\x01", "no name"
    for rubbish in (b"", b"\x04\x01\x00\x50", b"GET / HTTP/1.1\r\n\r\n", os.urandom(400), b"\x05", b"\x05\xff\x01"):
        answer(rubbish)
    # The same session still does its work.
    with contextlib.closing(connect(("127.0.0.1", said["port"]))) as c:
        c.sendall(b"\x05\x01\x00\x05\x01\x00\x03\x09localhost" + struct.pack("!H", echo_server.port) + b"hello")
        assert receive(c, 2 + 10 + 5).endswith(b"hello")
    assert process.poll() is None


# --- -W -------------------------------------------------------------------------------------------------------------------


def test_stdio_carries_redis_commands_like_a_proxy_command(start_cli, redis_server):
    process = start_cli("forward", "-W", f"127.0.0.1:{redis_server.port}")
    out, err = process.communicate(b"SET key 1\r\nINCR key\r\nQUIT\r\n", timeout=PATIENCE)
    assert (process.returncode, out, err) == (0, b"+OK\r\n:2\r\n+OK\r\n", b"")


def test_socat_uses_stdio_in_place_of_a_connection(broker, redis_server, directory, spawn):
    """As ssh does with its ProxyCommand: a pair of pipes to a process instead of a socket."""
    path = str(directory / "proxied.sock")
    environment = dict(os.environ, SOCKBROKER_ADDRESS=broker.addresses[0])
    spawn(
        [program("socat"), f"UNIX-LISTEN:{path},fork", f"EXEC:{SOCKBROKER} forward -W {redis_server.path}"],
        env=environment,
    )
    wait_until(lambda: os.path.exists(path), "socat listens")
    assert redis_cli("-s", path, "SET", "a", "b") == b"OK\n"
    assert redis_cli("-s", path, "GET", "a") == b"b\n"


def test_stdio_moves_64_mebibytes_each_way_unchanged(start_cli, python_peer, directory):
    data = os.urandom(1 << 20) * 64
    upload = directory / "upload"
    upload.write_bytes(data)
    received = []

    def serve(s):
        sender = threading.Thread(target=lambda: (s.sendall(data[::-1]), s.shutdown(socket.SHUT_WR)))
        sender.start()
        received.append(hashlib.sha256(read_all(s)).digest())
        sender.join()

    peer = python_peer(serve)
    with open(upload, "rb") as f:
        process = start_cli("forward", "-W", f"{peer.host}:{peer.port}", stdin=f)
    got, err = process.communicate(timeout=PATIENCE * 4)
    assert process.returncode == 0, err
    assert hashlib.sha256(got).digest() == hashlib.sha256(data[::-1]).digest()
    wait_until(lambda: received == [hashlib.sha256(data).digest()], "the peer got everything")


def test_stdio_says_why_it_could_not_connect_or_was_reset(run_cli, python_peer):
    closed = free_port()
    result = run_cli("forward", "-W", f"127.0.0.1:{closed}")
    assert result.returncode == 1
    assert result.stderr == b"sockbroker: connect to 127.0.0.1:%d failed: Connection refused\n" % closed
    peer = python_peer(lambda s: (s.recv(5), reset(s)))
    result = run_cli("forward", "-W", f"{peer.host}:{peer.port}", input=b"hello")
    assert result.returncode == 1
    assert b"Connection reset by peer" in result.stderr


def test_stdio_ends_when_nobody_reads_stdout(start_cli, python_peer):
    def serve(s):
        with contextlib.suppress(ConnectionError):
            while True:
                s.sendall(b"x" * 65536)

    peer = python_peer(serve)
    process = start_cli("forward", "-W", f"{peer.host}:{peer.port}")
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(PATIENCE) == 141


@pytest.fixture
def ssh(directory, python_peer):
    """ssh(address): the words of an ssh to a real sshd of our own, through the broker at `address` by a ProxyCommand."""
    host_key, key = directory / "host_key", directory / "key"
    for path in (host_key, key):
        subprocess.run([program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    if os.geteuid() == 0:
        # Where a root's sshd locks its unprivileged part in; its service makes it.
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    settings = [f"HostKey={host_key}", f"AuthorizedKeysFile={key}.pub", "StrictModes=no", "UsePAM=no", "PidFile=none",
                "PasswordAuthentication=no", "KbdInteractiveAuthentication=no", "LogLevel=ERROR"]
    sshd = [program("sshd"), "-i", "-e", "-f", "/dev/null", *(word for setting in settings for word in ("-o", setting))]

    def serve(s):
        # As inetd does: one process per connection, and no port of sshd's own.
        with open(directory / "sshd.log", "ab") as log:
            subprocess.run(sshd, stdin=s, stdout=s, stderr=log, check=False)

    peer = python_peer(serve)

    def words(address, *command):
        options = [f"ProxyCommand={SOCKBROKER} -b {address} forward -W %h:%p", "StrictHostKeyChecking=no",
                   f"UserKnownHostsFile={directory}/known_hosts", "IdentitiesOnly=yes", "BatchMode=yes", "LogLevel=ERROR"]
        return [program("ssh"), "-F", "none", "-i", str(key), "-p", str(peer.port),
                *(word for option in options for word in ("-o", option)), f"{getpass.getuser()}@{peer.host}", *command]

    return words


def test_ssh_runs_a_command_by_a_proxy_command(ssh, broker):
    ran = subprocess.run(ssh(broker.addresses[0], "echo hello; cat; exit 7"), input=b"from here", capture_output=True,
                         timeout=PATIENCE, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, b"hello\nfrom here", b"")


def test_ssh_copies_a_mebibyte_though_the_link_to_the_broker_breaks_in_the_middle(ssh, broker):
    data = os.urandom(1 << 20)
    half = len(data) // 2
    link = BreakableLink(broker.addresses[1])
    try:
        with subprocess.Popen(ssh(link.address, "cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as process:
            try:
                sender = threading.Thread(target=lambda: (process.stdin.write(data[:half]), process.stdin.flush()))
                sender.start()
                assert process.stdout.read(half) == data[:half]
                sender.join()
                before = link.relayed
                link.cut()
                rest, err = process.communicate(data[half:], timeout=PATIENCE)
                assert (process.returncode, rest == data[half:]) == (0, True), err
                assert link.relayed > before
            finally:
                process.kill()
    finally:
        link.close()


# --- the link to the broker -----------------------------------------------------------------------------------------------


def test_a_link_that_is_cut_again_and_again_costs_no_byte(start_forward, broker, python_peer):
    size = 64 << 20
    data = os.urandom(1 << 20) * (size >> 20)
    received = []

    def serve(s):
        sender = threading.Thread(target=lambda: (s.sendall(data[::-1]), s.shutdown(socket.SHUT_WR)))
        sender.start()
        received.append(hashlib.sha256(read_all(s)).digest())
        sender.join()

    peer = python_peer(serve)
    link = BreakableLink(broker.addresses[1])
    try:
        process, said = start_forward("-L", f"0:{peer.host}:{peer.port}", address=link.address)
        with contextlib.closing(connect(("127.0.0.1", said["port"]))) as c:
            sender = threading.Thread(target=lambda: (c.sendall(data), c.shutdown(socket.SHUT_WR)))
            sender.start()
            got, cuts, digest = 0, 0, hashlib.sha256()
            while piece := c.recv(1 << 16):
                got += len(piece)
                digest.update(piece)
                if got > (cuts + 1) * (size // 8):
                    cuts += 1
                    link.cut()
            sender.join()
        wait_until(lambda: received, "the peer got everything")
    finally:
        link.close()
    assert cuts >= 7
    assert got == size and digest.digest() == hashlib.sha256(data[::-1]).digest()
    assert received == [hashlib.sha256(data).digest()]
    assert process.poll() is None


def test_a_new_connection_waits_for_the_link(start_forward, broker, echo_server):
    link = BreakableLink(broker.addresses[1])
    try:
        process, said = start_forward("-L", f"0:{echo_server.host}:{echo_server.port}", address=link.address)
        link.refuse()
        link.cut()
        assert event(process) | {"text": ""} == {"event": "link", "up": False, "text": ""}
        with contextlib.closing(connect(("127.0.0.1", said["port"]))) as c:
            c.sendall(b"patience")
            readable, _, _ = select.select([c], [], [], 0)
            assert not readable
            link.accept_again()
            assert receive(c, 8) == b"patience"
        assert event(process)["up"]
    finally:
        link.close()


def test_a_broker_that_dies_resets_what_it_had(start_broker, start_cli, echo_server, directory):
    address = f"unix:{directory}/mortal.sock"
    first = start_broker("--listen", address)
    process = start_cli("forward", "--json", "-L", f"0:{echo_server.host}:{echo_server.port}", address=address)
    port = event(process)["port"]
    with contextlib.closing(connect(("127.0.0.1", port))) as old:
        old.sendall(b"hello")
        assert old.recv(5) == b"hello"
        first.signal(signal.SIGKILL)
        first.wait()
        start_broker("--listen", address)
        with pytest.raises(ConnectionResetError):
            old.recv(5)
    with contextlib.closing(connect(("127.0.0.1", port))) as new:
        new.sendall(b"again")
        assert new.recv(5) == b"again"


def test_no_broker_is_said_with_what_to_do(run_cli, directory):
    result = run_cli("-b", f"unix:{directory}/none.sock", "forward", "-L", "0:127.0.0.1:1")
    assert result.returncode == 3
    assert b"start `sockbrokerd`, or name another with -b ADDRESS" in result.stderr


# --- the command itself -----------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_every_connection_on_both_sides(start_forward, python_peer, stub, directory):
    outcome = []

    def serve(s):
        s.sendall(b"hello")
        try:
            outcome.append(read_all(s))
        except ConnectionResetError:
            outcome.append("reset")

    peer = python_peer(serve)
    path = directory / "here.sock"
    process, said, _ = start_forward(
        "-L", f"0:{peer.host}:{peer.port}", "-L", f"{path}:{peer.host}:{peer.port}", listeners=2
    )
    clients = [connect(("127.0.0.1", said["port"])) for _ in range(10)]
    for c in clients:
        assert c.recv(5) == b"hello"
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    for c in clients:
        with pytest.raises(ConnectionResetError):
            c.recv(1)
        c.close()
    wait_until(lambda: outcome == ["reset"] * 10, "a transfer that was cut does not look complete")
    wait_until(lambda: not connections(stub), "nothing stays for its lease")
    assert not path.exists()
    assert process.stderr.read() == b""


def test_a_port_that_is_taken_ends_it_with_advice(run_cli, echo_server, broker):
    taken = echo_server.port
    result = run_cli("forward", "-L", f"127.0.0.1:{taken}:db:1")
    assert result.returncode == 1
    assert result.stderr == (
        b"sockbroker: -L 127.0.0.1:%d: Address already in use; port 0 takes a free one\n" % taken
    )
    result = run_cli("forward", "-R", f"127.0.0.1:{taken}:db:1")
    assert result.returncode == 1
    assert result.stderr == (
        b"sockbroker: -R 127.0.0.1:%d: listening at the broker failed: Address already in use; port 0 takes a free one, "
        b"and `sockbroker servers` shows whether a listener of yours has it\n" % taken
    )


def test_mistakes_are_explained(run_cli):
    for arguments, text in (
        ([], b"forward needs at least one of -L, -R, -D and -W"),
        (["-L", "8080"], b"where it leads is missing"),
        (["-R", "8080:::1:80"], b"an IPv6 address stands in brackets"),
        (["-D", "nowhere"], b"-D takes [BIND:]PORT"),
        (["-W", "host"], b"-W takes HOST:PORT or PATH"),
    ):
        result = run_cli("forward", *arguments)
        assert result.returncode == 2, arguments
        assert text in result.stderr and b"sockbroker forward --help" in result.stderr, result.stderr


@pytest.mark.parametrize("where", ["a port", "a path"])
def test_a_forward_that_was_killed_is_taken_up_by_the_next_with_who_waits(
    start_forward, start_cli, echo_server, directory, stub, where
):
    place = f"{directory}/remote.sock" if where == "a path" else f"127.0.0.1:{free_port()}"
    address = place if where == "a path" else ("127.0.0.1", int(place.rsplit(":", 1)[1]))
    spec = f"{place}:{echo_server.host}:{echo_server.port}"
    first, _ = start_forward("-R", spec)
    # One that is served is nobody else's.
    second = start_cli("forward", "-R", spec)
    assert second.wait(PATIENCE) == 1 and b"Address already in use" in second.stderr.read()
    first.kill()
    first.wait()
    wait_until(lambda: servers(stub)[0].waiting_accepts == 0, "the broker knows")
    with contextlib.closing(connect(address)) as c:
        c.sendall(b"waited")
        # Other labels are another's.
        other = start_cli("forward", "-l", "a=b", "-R", spec)
        assert other.wait(PATIENCE) == 1
        third, _ = start_forward("-R", spec)
        assert "taken up from a forward of yours that has gone" in third.stderr.readline().decode()
        assert receive(c, 6) == b"waited"
    assert len(servers(stub)) == 1


def test_without_json_a_free_port_is_said_for_people(start_cli, echo_server):
    process = start_cli("forward", "-L", f"0:{echo_server.host}:{echo_server.port}")
    said = process.stderr.readline().decode().split()
    assert said[:3] == ["Listening", "on", "127.0.0.1"]
    with contextlib.closing(connect(("127.0.0.1", int(said[3])))) as c:
        c.sendall(b"hello")
        assert c.recv(5) == b"hello"


def test_v_draws_one_line_on_a_terminal_and_tells_lines_elsewhere(start_cli, echo_server):
    spec = f"0:{echo_server.host}:{echo_server.port}"
    terminal, far = pty.openpty()
    process = start_cli("forward", "-v", "-L", spec, stderr=far)
    os.close(far)
    seen = b""

    def read_until(text):
        nonlocal seen
        while text not in seen:
            readable, _, _ = select.select([terminal], [], [], PATIENCE)
            assert readable, seen
            seen += os.read(terminal, 4096)

    read_until(b" for ")
    port = int(seen.split()[3])
    with contextlib.closing(connect(("127.0.0.1", port))) as c:
        c.sendall(b"hello")
        assert c.recv(5) == b"hello"
        read_until(b"\r1 connection open, 1 in all; sent 5 B, ")
    read_until(b"\r0 connections open, 1 in all; sent 5 B, ")
    assert seen.count(b"\n") == 1, "only where it listens is a line of its own"
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    os.close(terminal)

    process = start_cli("forward", "-v", "-L", spec)
    said = process.stderr.readline()
    assert said.startswith(b"Listening on 127.0.0.1 ")
    with contextlib.closing(connect(("127.0.0.1", int(said.split()[3])))) as c:
        c.sendall(b"hello")
        assert c.recv(5) == b"hello"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    *_, last = process.stderr.read().decode().splitlines()
    assert last.startswith("0 connections open, 1 in all; sent 5 B, "), "at the end at the latest"
