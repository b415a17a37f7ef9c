"""The broker reached by mutual TLS: who gets in, as whom, and what they may do."""

import dataclasses
import os
import pathlib
import subprocess

import grpc
import pytest
from conftest import PATIENCE, SOCKBROKER, SOCKBROKERD, connect, error_detail, free_port, program, wait_until
from sockbroker.v1 import connection_pb2 as connections
from sockbroker.v1 import error_pb2 as errors
from sockbroker.v1 import io_pb2 as io
from sockbroker.v1 import server_pb2 as servers
from sockbroker.v1 import sockbroker_pb2_grpc
from sockbroker.v1 import tls_pb2 as tls

ALICE = "URI:spiffe://example.org/alice"
BOB = "URI:spiffe://example.org/bob"


@dataclasses.dataclass
class Certificate:
    """Files in PEM."""

    certificate: pathlib.Path
    key: pathlib.Path


class Authority:
    """Issues certificates with the openssl program, into a directory."""

    def __init__(self, directory, name):
        self._directory = directory
        self._name = name
        self.certificate = directory / f"{name}.crt"
        self._key = directory / f"{name}.key"
        self._openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
            *("-subj", f"/CN={name}", "-keyout", self._key, "-out", self.certificate),
            *("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )
        database = directory / f"{name}.db"
        database.touch()
        # `openssl ca`, since `openssl x509` of Debian 12 can't make certificates that have expired.
        (directory / f"{name}.cnf").write_text(
            f"[ca]\ndefault_ca = d\n[d]\ndatabase = {database}\nnew_certs_dir = {directory}\nrand_serial = yes\n"
            f"unique_subject = no\ndefault_md = sha256\npolicy = p\n[p]\ncommonName = optional\n"
        )

    def issue(self, name, *san, days=("20200101000000Z", "20991231235959Z"), subject=None):
        result = Certificate(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        request = self._directory / f"{name}.csr"
        extensions = self._directory / f"{name}.ext"
        extensions.write_text(
            "basicConstraints = CA:FALSE\n" + (f"subjectAltName = {','.join(san)}\n" if san else "")
        )
        self._openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN={subject or name}", "-keyout", result.key, "-out", request),
        )
        self._openssl(
            *("ca", "-batch", "-notext", "-config", self._directory / f"{self._name}.cnf", "-cert", self.certificate),
            *("-keyfile", self._key, "-in", request, "-out", result.certificate, "-extfile", extensions),
            *("-startdate", days[0], "-enddate", days[1]),
        )
        return result

    @staticmethod
    def _openssl(*arguments):
        done = subprocess.run(
            [program("openssl"), *map(str, arguments)], capture_output=True, stdin=subprocess.DEVNULL, check=False
        )
        assert done.returncode == 0, done.stderr.decode()


class Pki:
    """All the certificates there are: `server` and the clients' of one authority, and what is wrong in some way."""

    def __init__(self, directory):
        self.authority = Authority(directory, "ca")
        self.server = self.authority.issue("server", "IP:127.0.0.1")
        self.alice = self.authority.issue("alice", ALICE)
        self.bob = self.authority.issue("bob", "DNS:not-this.example.org", BOB, "URI:spiffe://example.org/alice")
        self.host = self.authority.issue("host", "DNS:worker.example.org", "DNS:other.example.org")
        self.nameless = self.authority.issue("nameless", subject="alice")
        self.expired = self.authority.issue("expired", ALICE, days=("20200101000000Z", "20200102000000Z"))
        self.stranger = Authority(directory, "other-ca").issue("stranger", ALICE)


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return Pki(tmp_path_factory.mktemp("pki"))


def flags(pki, server=None, ca=None):
    server = server or pki.server
    return [
        *("--tls-cert", server.certificate, "--tls-key", server.key),
        *("--tls-client-ca", ca or pki.authority.certificate),
    ]


@pytest.fixture
def open_channel():
    """open_channel(broker, ca, certificate or None, listener=0): a connection of its own."""
    channels = []

    def connect(broker, ca, certificate, listener=0):
        identity = (None, None) if certificate is None else (certificate.key, certificate.certificate)
        credentials = grpc.ssl_channel_credentials(
            pathlib.Path(ca).read_bytes(), *(None if file is None else file.read_bytes() for file in identity)
        )
        port = broker.addresses[listener].rsplit(":", 1)[1]
        channel = grpc.secure_channel(
            f"127.0.0.1:{port}",
            credentials,
            options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)],
        )
        channels.append(channel)
        return channel

    yield connect
    for channel in channels:
        channel.close()


@pytest.fixture
def stub_of(open_channel, pki):
    """stub_of(broker, certificate): the broker as that certificate's owner."""

    def make(broker, certificate, listener=0):
        channel = open_channel(broker, pki.authority.certificate, certificate, listener)
        return sockbroker_pb2_grpc.SocketBrokerStub(channel)

    return make


@pytest.fixture
def closed_broker(start_broker, pki):
    """As it comes: nothing is allowed."""
    return start_broker("--listen", "127.0.0.1:0", *flags(pki))


@pytest.fixture
def open_broker(start_broker, pki):
    return start_broker("--listen", "127.0.0.1:0", *flags(pki), "--allow-all")


def failure(function, request):
    with pytest.raises(grpc.RpcError) as caught:
        answer = function(request, timeout=PATIENCE)
        if hasattr(answer, "__next__"):
            next(answer)
    return caught.value


def bytes_of(error):
    return error.code(), error.details(), sorted(error.trailing_metadata())


def open_to(stub, peer, **fields):
    request = connections.OpenConnectionRequest(host=peer.host, port=peer.port, **fields)
    return stub.OpenConnection(request, timeout=PATIENCE).connection


def list_handles(stub):
    answer = stub.ListConnections(connections.ListConnectionsRequest(), timeout=PATIENCE)
    return [connection.handle for connection in answer.connections]


def health(channel):
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    return check(b"", timeout=PATIENCE)


# --- who gets in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["nobody", "expired", "stranger"])
def test_without_a_good_certificate_nobody_gets_in(open_broker, stub_of, pki, who):
    stub = stub_of(open_broker, None if who == "nobody" else getattr(pki, who))
    error = failure(stub.ListConnections, connections.ListConnectionsRequest())
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert error_detail(error) is None, "the broker itself must not have seen the call"


def test_silent_connections_keep_nobody_out_and_use_up_nothing(open_broker, stub_of, pki):
    before = stub_of(open_broker, pki.alice)
    watch = before.WatchConnections(connections.WatchConnectionsRequest())
    assert next(watch).kind == connections.ConnectionEvent.SYNCED
    descriptors = open_broker.descriptors()
    address = "127.0.0.1", int(open_broker.addresses[0].rsplit(":", 1)[1])
    silent = []
    for i in range(400):
        silent.append(connect(address))
        if i % 2:
            silent[-1].sendall(b"\x16\x03\x01")  # a record's begin
    silent[0].settimeout(10)  # gRPC's own time-out for it is 20 s
    assert silent[0].recv(1) == b""
    wait_until(lambda: open_broker.descriptors() <= descriptors + 130, "no more than 128 are kept")
    # Who was in stays in, and who comes now gets in.
    assert watch.is_active()
    assert list_handles(stub_of(open_broker, pki.host)) == []
    watch.cancel()
    for s in silent:
        s.close()


def test_without_tls_nobody_gets_in(open_broker):
    error = failure(open_broker.stub().ListConnections, connections.ListConnectionsRequest())
    assert error.code() == grpc.StatusCode.UNAVAILABLE


def test_a_certificate_that_names_nobody_is_told_so_by_every_service(open_broker, stub_of, open_channel, pki):
    # Its subject says "alice", as anybody's may.
    stub = stub_of(open_broker, pki.nameless)
    for function, request in [
        (stub.ListConnections, connections.ListConnectionsRequest()),
        (stub.OpenConnection, connections.OpenConnectionRequest(host="127.0.0.1", port=1)),
        (stub.WatchConnections, connections.WatchConnectionsRequest()),
    ]:
        error = failure(function, request)
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        assert "URI or a DNS name" in error.details()
    with pytest.raises(grpc.RpcError) as caught:
        health(open_channel(open_broker, pki.authority.certificate, pki.nameless))
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_health_is_served_over_mtls(closed_broker, open_channel, pki):
    assert health(open_channel(closed_broker, pki.authority.certificate, pki.alice)) == b"\x08\x01"


def test_a_client_sees_through_a_false_broker(start_broker, open_channel, pki, directory):
    false = Authority(directory, "false-ca")
    broker = start_broker("--listen", "127.0.0.1:0", *flags(pki, server=false.issue("false", "IP:127.0.0.1")))
    with pytest.raises(grpc.RpcError) as caught:
        health(open_channel(broker, pki.authority.certificate, pki.alice))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


# --- what they may do -------------------------------------------------------------------------------------------------


def test_by_default_nothing_may_be_opened_or_served(
    closed_broker, stub_of, pki, echo_server, unix_echo_server, directory
):
    stub = stub_of(closed_broker, pki.alice)
    for function, request in [
        (stub.OpenConnection, connections.OpenConnectionRequest(host=echo_server.host, port=echo_server.port)),
        (stub.OpenConnection, connections.OpenConnectionRequest(sock="control")),
        (stub.OpenUnixConnection, connections.OpenUnixConnectionRequest(path=unix_echo_server.path.encode())),
        (stub.StartServer, servers.StartServerRequest(hosts=["127.0.0.1"], port=0)),
        (stub.StartUnixServer, servers.StartUnixServerRequest(path=f"{directory}/s.sock".encode())),
    ]:
        error = failure(function, request)
        assert error.code() == grpc.StatusCode.PERMISSION_DENIED
        detail = error_detail(error)
        assert (detail.reason, detail.rule) == (errors.POLICY, "no-policy")
    assert not (directory / "s.sock").exists()
    assert list_handles(stub) == []
    audited = '"principal":"cert:spiffe://example.org/alice"'
    wait_until(lambda: audited in closed_broker.log(), "the refusal's audit line")


def test_allow_all_lifts_that_for_unix_sockets_too(open_broker, stub_of, pki, echo_server, unix_echo_server, directory):
    stub = stub_of(open_broker, pki.alice)
    unix = connections.OpenUnixConnectionRequest(path=unix_echo_server.path.encode())
    for connection in [open_to(stub, echo_server), stub.OpenUnixConnection(unix, timeout=PATIENCE).connection]:
        stub.Write(io.WriteRequest(handle=connection.handle, data=b"over mTLS\n"), timeout=PATIENCE)
        line = stub.ReadLine(io.ReadLineRequest(handle=connection.handle), timeout=PATIENCE)
        assert line.data == b"over mTLS\n"
    stub.StartServer(servers.StartServerRequest(hosts=["127.0.0.1"], port=0), timeout=PATIENCE)
    stub.StartUnixServer(servers.StartUnixServerRequest(path=f"{directory}/s.sock".encode()), timeout=PATIENCE)


def test_the_other_listeners_keep_their_own_defaults(start_broker, stub_of, pki, echo_server, directory):
    broker = start_broker(
        *("--listen", f"unix:{directory}/b.sock", "--listen", "127.0.0.1:0", "--listen", "0.0.0.0:0"),
        *("--insecure-loopback", *flags(pki)),
    )
    owner = open_to(broker.stub(0), echo_server)
    anybody = open_to(broker.stub(1), echo_server)
    alice = stub_of(broker, pki.alice, listener=2)
    request = connections.OpenConnectionRequest(host=echo_server.host, port=echo_server.port)
    error = failure(alice.OpenConnection, request)
    assert error_detail(error).rule == "no-policy"
    assert list_handles(broker.stub(0)) == [owner.handle]
    assert list_handles(broker.stub(1)) == [anybody.handle]
    assert list_handles(alice) == []


def test_the_broker_does_not_dial_its_own_mtls_listener(open_broker, stub_of, pki):
    port = int(open_broker.addresses[0].rsplit(":", 1)[1])
    request = connections.OpenConnectionRequest(host="127.0.0.1", port=port)
    error = failure(stub_of(open_broker, pki.alice).OpenConnection, request)
    assert error_detail(error).rule == "own-listener"


# --- as whom ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["bob", "host"])
def test_handles_lists_and_request_ids_belong_to_the_identity(open_broker, stub_of, pki, echo_server, other):
    # Bob's certificate has Alice's URI too, but second.
    alice, bob = stub_of(open_broker, pki.alice), stub_of(open_broker, getattr(pki, other))
    request_id = os.urandom(16)
    hers = open_to(alice, echo_server, request_id=request_id)
    his = open_to(bob, echo_server, request_id=request_id)
    assert hers.handle != his.handle
    assert open_to(alice, echo_server, request_id=request_id).handle == hers.handle
    assert list_handles(alice) == [hers.handle]
    assert list_handles(bob) == [his.handle]
    server = alice.StartServer(servers.StartServerRequest(hosts=["127.0.0.1"], port=0), timeout=PATIENCE).server
    assert not bob.ListServers(servers.ListServersRequest(), timeout=PATIENCE).servers

    unknown = os.urandom(16) + hers.handle[16:]
    for function, request in [
        (bob.Read, lambda handle: io.ReadRequest(handle=handle, n=1)),
        (bob.Write, lambda handle: io.WriteRequest(handle=handle, data=b"x")),
        (bob.GetConnection, lambda handle: connections.GetConnectionRequest(handle=handle)),
        (bob.Close, lambda handle: connections.CloseRequest(handle=handle)),
        (bob.Abort, lambda handle: connections.AbortRequest(handle=handle)),
        (bob.StartTls, lambda handle: tls.StartTlsRequest(handle=handle)),
    ]:
        foreign = failure(function, request(hers.handle))
        assert foreign.code() == grpc.StatusCode.NOT_FOUND
        assert bytes_of(foreign) == bytes_of(failure(function, request(unknown)))
    for function, request in [
        (bob.Accept, lambda handle: servers.AcceptRequest(server=handle)),
        (bob.GetServer, lambda handle: servers.GetServerRequest(handle=handle)),
        (bob.CloseServer, lambda handle: servers.CloseServerRequest(handle=handle)),
    ]:
        foreign = failure(function, request(server.handle))
        assert foreign.code() == grpc.StatusCode.NOT_FOUND
        assert bytes_of(foreign) == bytes_of(failure(function, request(unknown)))


def test_a_watcher_sees_its_own_connections_alone(open_broker, stub_of, pki, echo_server):
    alice, bob = stub_of(open_broker, pki.alice), stub_of(open_broker, pki.bob)
    hers = open_to(alice, echo_server)
    his = open_to(bob, echo_server)
    events = bob.WatchConnections(connections.WatchConnectionsRequest(), timeout=PATIENCE)
    seen = []
    for event in events:
        if not event.connection.handle:
            continue
        seen.append(event.connection.handle)
        if len(seen) == 1:
            # Hers end first, so that his shows that nothing was about hers.
            alice.Close(connections.CloseRequest(handle=hers.handle), timeout=PATIENCE)
            bob.Close(connections.CloseRequest(handle=his.handle), timeout=PATIENCE)
        elif event.kind == connections.ConnectionEvent.CLOSED:
            break
    events.cancel()
    assert set(seen) == {his.handle}


def test_another_connection_and_a_renewed_certificate_are_the_same_identity(open_broker, stub_of, pki, echo_server):
    handle = open_to(stub_of(open_broker, pki.alice), echo_server).handle
    renewed = pki.authority.issue("alice-renewed", ALICE)
    assert list_handles(stub_of(open_broker, renewed)) == [handle]


# --- the files --------------------------------------------------------------------------------------------------------


def replace(path, content):
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content)
    temporary.rename(path)


def test_replaced_files_are_used_without_a_restart(start_broker, open_channel, stub_of, pki, directory):
    server = Certificate(directory / "b.crt", directory / "b.key")
    ca = directory / "clients.ca"

    def install(certificate, authority):
        replace(server.key, certificate.key.read_bytes())
        replace(server.certificate, certificate.certificate.read_bytes())
        replace(ca, authority.certificate.read_bytes())

    install(pki.server, pki.authority)
    broker = start_broker("--listen", "127.0.0.1:0", *flags(pki, server=server, ca=ca))
    before = stub_of(broker, pki.alice)
    assert list_handles(before) == []

    later = Authority(directory, "later-ca")
    newcomer = later.issue("newcomer", ALICE)
    install(later.issue("server-later", "IP:127.0.0.1"), later)

    def reachable():
        try:
            return health(open_channel(broker, later.certificate, newcomer))
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            return None

    assert wait_until(reachable, "the new certificate is used") == b"\x08\x01"
    # The old authority vouches for nobody any more; who was in stays in.
    with pytest.raises(grpc.RpcError):
        health(open_channel(broker, later.certificate, pki.alice))
    assert list_handles(before) == []


def test_a_file_that_becomes_unusable_lets_nobody_in_until_it_is_mended(start_broker, open_channel, pki, directory):
    ca = directory / "clients.ca"
    replace(ca, pki.authority.certificate.read_bytes())
    broker = start_broker("--listen", "127.0.0.1:0", *flags(pki, ca=ca))

    def lets_in(certificate):
        try:
            return bool(health(open_channel(broker, pki.authority.certificate, certificate)))
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            return False

    assert lets_in(pki.alice)
    for broken in [b"not a certificate", b""]:
        replace(ca, broken)
        if broken:
            wait_until(lambda: not lets_in(pki.alice), "the broken file is seen")
        assert not lets_in(None) and not lets_in(pki.stranger)
    replace(ca, pki.authority.certificate.read_bytes())
    wait_until(lambda: lets_in(pki.alice), "the mended file is seen")
    assert not lets_in(None) and not lets_in(pki.stranger)


# --- the start --------------------------------------------------------------------------------------------------------


def run(*arguments):
    return subprocess.run(
        [str(SOCKBROKERD), *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_beyond_loopback_the_three_flags_are_asked_for_by_name():
    for more in [[], ["--insecure-loopback"], ["--allow-all"]]:
        ended = run("--listen", "0.0.0.0:0", *more)
        assert (ended.returncode, ended.stdout) == (2, "")
        for flag in ["--tls-cert", "--tls-key", "--tls-client-ca"]:
            assert flag in ended.stderr


def test_two_of_the_three_flags_are_not_enough(pki):
    three = flags(pki)
    for i in range(0, 6, 2):
        ended = run("--listen", "0.0.0.0:0", *three[:i], *three[i + 2 :])
        assert (ended.returncode, ended.stdout) == (2, "")
        assert f"missing: {three[i]}\n" in ended.stderr


def test_unusable_files_are_named_at_the_start(pki, directory):
    absent = directory / "absent.pem"
    garbage = directory / "garbage.pem"
    garbage.write_text("not a certificate")
    for server, ca, named in [
        (Certificate(absent, pki.server.key), None, absent),
        (Certificate(pki.server.certificate, absent), None, absent),
        (pki.server, absent, absent),
        (pki.server, garbage, garbage),
        (Certificate(pki.server.certificate, pki.alice.key), None, pki.alice.key),
    ]:
        ended = run("--listen", f"unix:{directory}/b.sock", "--listen", "127.0.0.1:0", *flags(pki, server, ca))
        assert (ended.returncode, ended.stdout) == (1, "")
        assert str(named) in ended.stderr
        assert "PRIVATE KEY" not in ended.stderr
        assert not (directory / "b.sock").exists()


# --- the program ------------------------------------------------------------------------------------------------------


def cli(*arguments, **options):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SOCKBROKER_C")}
    environment.pop("SOCKBROKER_KEY", None)
    environment.update(options.pop("env", {}))
    return subprocess.run(
        [str(SOCKBROKER), *map(str, arguments)],
        env=environment,
        input=options.pop("input", b""),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        **options,
    )


def as_(pki, certificate):
    return [
        *("--broker-cacert", pki.authority.certificate),
        *(("--broker-cert", certificate.certificate, "--broker-key", certificate.key) if certificate else ()),
    ]


def test_the_program_connects_over_mtls(open_broker, pki, echo_server):
    there = ["-b", open_broker.addresses[0]]
    target = ["connect", echo_server.host, echo_server.port]
    done = cli(*there, *as_(pki, pki.alice), *target, input=b"hello\n")
    assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr
    # Behind the word, and by the environment.
    done = cli(*target, *there, *as_(pki, pki.alice), input=b"hello\n")
    assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr
    environment = {
        "SOCKBROKER_ADDRESS": open_broker.addresses[0],
        "SOCKBROKER_CACERT": str(pki.authority.certificate),
        "SOCKBROKER_CERT": str(pki.alice.certificate),
        "SOCKBROKER_KEY": str(pki.alice.key),
    }
    done = cli(*target, env=environment, input=b"hello\n")
    assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr


def test_the_program_says_what_the_default_forbids(closed_broker, pki, echo_server):
    done = cli("-b", closed_broker.addresses[0], *as_(pki, pki.alice), "connect", echo_server.host, echo_server.port)
    assert done.returncode == 1
    assert b"rule no-policy" in done.stderr


@pytest.mark.parametrize("who", ["nobody", "expired", "stranger"])
def test_the_program_is_turned_away_at_once(open_broker, pki, who):
    certificate = None if who == "nobody" else getattr(pki, who)
    done = cli("-b", open_broker.addresses[0], *as_(pki, certificate), "ls")
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.startswith(b"sockbroker: no broker at 127.0.0.1:")


def test_the_program_sees_through_a_false_broker(open_broker, pki, directory):
    other = Authority(directory, "elsewhere").certificate
    arguments = ["--broker-cacert", other, *as_(pki, pki.alice)[2:]]
    done = cli("-b", open_broker.addresses[0], *arguments, "ls")
    assert (done.returncode, done.stdout) == (3, b"")
    assert b": the broker's certificate is not accepted (self-signed certificate in" in done.stderr
    assert b"; --broker-cacert FILE names who vouches for it" in done.stderr


def test_the_program_says_why_no_broker_answers_on_tcp(open_broker, start_broker, python_peer, pki):
    tls, plain = open_broker.addresses[0], start_broker("--listen", "127.0.0.1:0", "--insecure-loopback").addresses[0]
    deaf = python_peer(lambda s: s.sendall(b"220 mail.example.org ESMTP\r\n"))
    alice, ca = as_(pki, pki.alice), ["--broker-cacert", pki.authority.certificate]
    for address, arguments, said in (
        (tls, [], "it wants TLS: --broker-cacert FILE, with --broker-cert FILE and --broker-key FILE"),
        (tls, ca, "it demands a certificate: --broker-cert FILE and --broker-key FILE"),
        (tls, as_(pki, pki.stranger), "it does not accept the certificate of --broker-cert"),
        (plain, alice, "what answers there speaks no TLS; leave --broker-cacert"),
        ("nosuch.invalid:7000", [], "the name nosuch.invalid is not known ("),
        ("nosuch.invalid:7000", alice, "the name nosuch.invalid is not known ("),
        (f"127.0.0.1:{free_port()}", [], "Connection refused; start `sockbrokerd`"),
        (f"127.0.0.1:{free_port()}", alice, "Connection refused; start `sockbrokerd`"),
        (f"{deaf.host}:{deaf.port}", [], "what answers there is no sockbrokerd"),
    ):
        for command in (["ls"], ["connect", "127.0.0.1", "1"], ["forward", "-L", "0:db:1"]):
            done = cli("-b", address, *arguments, *command)
            assert done.returncode == 3, (address, command, done.stderr)
            assert done.stderr.decode().startswith(f"sockbroker: no broker at {address}: {said}"), done.stderr
            assert done.stderr.count(b"\n") == 1


def test_the_program_names_files_it_cannot_use(open_broker, pki, directory):
    there = ["-b", open_broker.addresses[0], "ls"]
    ca = ["--broker-cacert", pki.authority.certificate]
    for arguments, said in [
        (["--broker-cacert", "/nonexistent"], b"--broker-cacert: /nonexistent: No such file"),
        (["--broker-cacert", directory], b"--broker-cacert: "),
        ([*ca, "--broker-cert", pki.alice.certificate], b"--broker-cert needs --broker-key"),
        ([*ca, "--broker-key", pki.alice.key], b"--broker-key needs --broker-cert"),
        (["--broker-cert", pki.alice.certificate, "--broker-key", pki.alice.key], b"need --broker-cacert"),
    ]:
        done = cli(*arguments, *there)
        assert (done.returncode, done.stdout) == (2, b"")
        assert said in done.stderr
    done = cli(*ca, "--broker-cert", pki.alice.certificate, "--broker-key", pki.bob.key, *there)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--broker-key: %b is not the key of the certificate in %b" % (
        str(pki.bob.key).encode(),
        str(pki.alice.certificate).encode(),
    ) in done.stderr
