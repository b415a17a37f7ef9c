"""TLS as the contract has it: whom it trusts, how it ends, and that no key ever comes back. Upgrades are in
test_tls_upgrade.py, programs that others wrote in a file each: openssl, nginx, redis, PostgreSQL, SMTP, Python."""

import base64
import os
import pathlib
import shutil
import ssl
import stat
import threading

import grpc
import pytest
from conftest import PATIENCE, wait_until
from sockbroker.v1 import connection_pb2 as connections
from sockbroker.v1 import endpoint_pb2 as endpoints
from sockbroker.v1 import error_pb2 as errors
from sockbroker.v1 import io_pb2 as io
from sockbroker.v1 import server_pb2 as servers
from sockbroker.v1 import tls_pb2 as pb
from tls_kit import (
    TlsEnd,
    accept_later,
    accepted,  # noqa: F401
    certificates,  # noqa: F401
    close,
    echo_lines,
    get,
    open_connection,
    plain_client,
    read,
    read_all,
    read_exactly,
    read_line,
    refused,
    serve_upgrade,
    start_server,
    start_tls,
    start_tls_later,
    wait_closed,
    write,
)

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def tls_echo(python_peer, certificates):
    """tls_echo(identity, ...): sends back what it gets, over TLS."""

    def start(identity=None, **more):
        context = certificates.server_context(identity, **more)

        def serve(s):
            try:
                echo_lines(TlsEnd(s, context, server_side=True).handshake())
            except ssl.SSLError:
                pass  # whoever does not trust us

        return python_peer(serve)

    return start


# --- whom it trusts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "identity, result",
    [
        ("expired", "certificate has expired"),
        ("wrong_host", "mismatch"),
        ("self_signed", "self-signed certificate"),
        ("foreign", "unable to get local issuer certificate"),
    ],
)
def test_a_bad_certificate_is_refused_and_the_error_says_what_is_wrong(stub, tls_echo, certificates, identity, result):
    peer = tls_echo(getattr(certificates, identity))
    detail = refused(open_connection, stub, peer, host="localhost", tls=certificates.client_options())
    assert detail.reason == errors.TLS_FAILED
    assert result in detail.tls_verify_result
    # The same, when it is asked for; and what would have been wrong is still told.
    c = open_connection(stub, peer, host="localhost", tls=certificates.client_options(verify=pb.TLS_VERIFY_NONE))
    write(stub, c, b"x\n")
    assert read_line(stub, c) == b"x\n"
    if identity != "wrong_host":  # a name is not looked at when nothing is verified
        assert c.tls.verify_code != 0
        assert result in c.tls.verify_text


def test_a_wrong_name_is_fine_when_names_are_not_checked_but_the_chain_still_is(stub, tls_echo, certificates):
    loose = certificates.client_options(check_hostname=False)
    assert open_connection(stub, tls_echo(certificates.wrong_host), tls=loose).tls.verify_code == 0
    detail = refused(open_connection, stub, tls_echo(certificates.foreign), tls=loose)
    assert detail.tls_verify_result == "unable to get local issuer certificate"


def test_the_system_does_not_vouch_for_a_root_of_ours(stub, tls_echo):
    detail = refused(open_connection, stub, tls_echo(), tls=pb.TlsOptions())
    assert detail.reason == errors.TLS_FAILED
    assert "certificate" in detail.tls_verify_result


def test_the_name_is_the_host_unless_another_is_given(stub, tls_echo, certificates):
    good, wrong = tls_echo(), tls_echo(certificates.wrong_host)
    assert open_connection(stub, good, host="localhost", tls=certificates.client_options()).tls.server_name == "localhost"
    # An address is checked against the certificate's addresses, and is no SNI.
    assert open_connection(stub, good, host="127.0.0.1", tls=certificates.client_options()).tls.server_name == ""
    named = certificates.client_options(server_hostname="elsewhere.example")
    assert open_connection(stub, wrong, tls=named).tls.server_name == "elsewhere.example"
    assert "mismatch" in refused(open_connection, stub, good, tls=named).tls_verify_result
    other = certificates.client_options(server_hostname="127.0.0.2")
    assert "IP address mismatch" in refused(open_connection, stub, good, tls=other).tls_verify_result


def test_an_empty_name_means_neither_sni_nor_a_check_of_it_but_the_chain_is_verified(stub, tls_echo, certificates):
    nameless = certificates.client_options(server_hostname="")
    c = open_connection(stub, tls_echo(certificates.wrong_host), host="localhost", tls=nameless)
    assert (c.tls.server_name, c.tls.verify_code) == ("", 0)
    refused(open_connection, stub, tls_echo(certificates.foreign), tls=nameless)


def test_where_there_is_no_host_a_name_is_demanded(stub, certificates, unix_echo_server):
    path = unix_echo_server.path.encode()
    request = connections.OpenUnixConnectionRequest(path=path, tls=certificates.client_options())
    assert refused(stub.OpenUnixConnection, request, code=INVALID).field == "tls.server_hostname"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_demands_a_certificate_sends_those_away_who_have_none(stub, tls_echo, certificates, version):
    peer = tls_echo(version=version, demand_client=True)

    def talk():
        read(stub, open_connection(stub, peer, tls=certificates.client_options()))

    assert refused(talk).reason == errors.TLS_FAILED
    c = open_connection(stub, peer, tls=certificates.client_options(certificates.client))
    write(stub, c, b"x\n")
    assert read_line(stub, c) == b"x\n"


def test_a_server_of_the_broker_judges_what_clients_show(stub, certificates):
    root = certificates.root.certificate_pem
    demanding, address = start_server(stub, tls=certificates.server_options(ca_pem=root))
    waiting = accept_later(stub, demanding)
    for identity in None, certificates.expired, certificates.foreign:
        with plain_client(address) as s, pytest.raises((ssl.SSLError, ConnectionError)):
            tls = certificates.client_context(identity).wrap_socket(s, server_hostname="localhost")
            if not tls.recv(1):
                raise ConnectionError("closed")
    with certificates.client_context(certificates.client).wrap_socket(plain_client(address), server_hostname="localhost"):
        assert waiting.result().connection.tls.peer_certificates[0].subject == "CN=client,O=sockbroker"

    options = certificates.server_options(ca_pem=root, verify=pb.TLS_VERIFY_OPTIONAL)
    optional, address = start_server(stub, tls=options)
    for identity in None, certificates.client:
        waiting = accept_later(stub, optional)
        with certificates.client_context(identity).wrap_socket(plain_client(address), server_hostname="localhost"):
            assert bool(waiting.result().connection.tls.peer_certificates) == (identity is not None)


def test_versions_and_ciphers_are_those_that_were_asked_for(stub, tls_echo, certificates):
    peer = tls_echo()
    options = certificates.client_options(max_version=pb.TLS_1_2, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256")
    c = open_connection(stub, peer, tls=options)
    assert (c.tls.version, c.tls.cipher.name) == ("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256")
    options = certificates.client_options(ciphersuites="TLS_CHACHA20_POLY1305_SHA256")
    assert open_connection(stub, peer, tls=options).tls.cipher.name == "TLS_CHACHA20_POLY1305_SHA256"
    old = tls_echo(version=ssl.TLSVersion.TLSv1_2)
    options = certificates.client_options(min_version=pb.TLS_1_3)
    assert refused(open_connection, stub, old, tls=options).reason == errors.TLS_FAILED


@pytest.mark.parametrize(
    "field, options",
    [
        ("tls.ca_pem", {"ca_pem": b"no certificate"}),
        ("tls.certificate_pem", {"certificate_pem": b"no certificate", "private_key_pem": b"no key"}),
        ("tls.alpn", {"alpn": [""]}),
        ("tls.alpn", {"alpn": ["x"] * 33}),
        ("tls.ciphers", {"ciphers": "NO-SUCH-CIPHER"}),
        ("tls.ciphersuites", {"ciphersuites": "NO-SUCH-SUITE"}),
        ("tls.min_version", {"min_version": pb.TLS_1_3, "max_version": pb.TLS_1_2}),
        ("tls.handshake_timeout", {"handshake_timeout": 0}),
        ("tls.shutdown_timeout", {"shutdown_timeout": -1}),
        ("tls.ca_name", {"ca_name": "x"}),
    ],
)
def test_an_unusable_option_is_named(stub, echo_server, certificates, field, options):
    tls = certificates.options(**options)
    assert refused(open_connection, stub, echo_server, tls=tls, code=INVALID).field == field


def test_a_server_without_a_certificate_is_refused(stub):
    assert refused(start_server, stub, tls=pb.TlsOptions(), code=INVALID).field == "tls.certificate_pem"


# --- the end ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ending_peer(python_peer, certificates):
    """ending_peer(how): says "bye\\n" over TLS, and ends: with close_notify or without."""

    def start(close_notify):
        def serve(s):
            end = TlsEnd(s, certificates.server_context(), server_side=True).handshake()
            end.sendall(b"bye\n")
            if close_notify:
                end.close_notify()

        return python_peer(serve)

    return start


def test_an_end_with_close_notify_is_eof_however_late_it_is_read(stub, ending_peer, certificates):
    c = open_connection(stub, ending_peer(True), tls=certificates.client_options())
    gone = wait_until(lambda: get(stub, c).closed_at.seconds and get(stub, c), "the peer's end is there")
    assert gone.close_reason != errors.TLS_TRUNCATED
    assert read(stub, c, offset=0).data == b"bye\n"
    assert read(stub, c, offset=0).data == b"bye\n"  # a lost reply
    for _ in range(2):
        answer = read(stub, c, offset=4)
        assert (answer.offset, answer.data, answer.eof, answer.outcome) == (4, b"", True, io.READ_OUTCOME_EOF)
    assert read_line(stub, c) == b""
    answer = stub.ReadExactly(io.ReadExactlyRequest(handle=c.handle, n=1), timeout=PATIENCE)
    assert (answer.data, answer.outcome) == (b"", io.READ_OUTCOME_INCOMPLETE)
    assert stub.AtEof(io.AtEofRequest(handle=c.handle), timeout=PATIENCE).at_eof
    detail = refused(write, stub, c, b"x")
    assert (detail.reason, detail.close_reason) == (errors.CLOSED, errors.ENDED_BY_PEER)
    assert wait_closed(stub, c).close_reason == errors.ENDED_BY_PEER


def test_an_end_without_close_notify_is_eof_and_close_reason_says_truncated(stub, ending_peer, certificates):
    c = open_connection(stub, ending_peer(False), tls=certificates.client_options())
    assert read_all(stub, c) == b"bye\n"
    assert wait_closed(stub, c).close_reason == errors.TLS_TRUNCATED


def test_an_end_without_close_notify_is_an_error_where_one_is_required(stub, ending_peer, certificates):
    tls = certificates.client_options(require_close_notify=True)
    c = open_connection(stub, ending_peer(False), tls=tls)
    assert read_exactly(stub, c, 4) == b"bye\n"
    for call in read, wait_closed:
        assert refused(call, stub, c).reason == errors.TLS_TRUNCATED
    assert get(stub, c).close_reason == errors.TLS_TRUNCATED
    d = open_connection(stub, ending_peer(True), tls=tls)
    assert read_all(stub, d) == b"bye\n"
    wait_closed(stub, d)


def test_a_direction_can_end_alone_where_that_is_allowed_and_not_otherwise(stub, python_peer, certificates):
    received, ended = [], threading.Event()

    def serve(s):
        end = TlsEnd(s, certificates.server_context(), server_side=True).handshake()
        while data := end.recv(65536):
            received.append(data)
        ended.set()
        end.sendall(b"still here\n")
        end.close_notify()

    peer = python_peer(serve)
    c = open_connection(stub, peer, tls=certificates.client_options(allow_half_close=True))
    assert stub.CanWriteEof(io.CanWriteEofRequest(handle=c.handle), timeout=PATIENCE).can_write_eof
    write(stub, c, b"the last\n", eof=True)
    assert ended.wait(PATIENCE)
    assert b"".join(received) == b"the last\n"
    assert read_line(stub, c) == b"still here\n"
    assert read_all(stub, c) == b""

    d = open_connection(stub, peer, tls=certificates.client_options())
    assert not stub.CanWriteEof(io.CanWriteEofRequest(handle=d.handle), timeout=PATIENCE).can_write_eof
    detail = refused(stub.WriteEof, io.WriteEofRequest(handle=d.handle), timeout=PATIENCE)
    assert detail.reason == errors.UNSUPPORTED


def test_close_sends_what_was_written_and_a_close_notify(stub, accepted, certificates):
    s, c = accepted()
    upgrade = start_tls_later(stub, c, certificates.server_options(), read_offset=0)
    client = TlsEnd(s, certificates.client_context(), server_hostname="localhost").handshake()
    upgrade.result()
    data = os.urandom(1 << 20)
    for _ in range(4):
        write(stub, c, data)
    close(stub, c)
    assert client.receive_exactly(4 << 20) == data * 4
    assert client.recv(1) == b""  # a missing close_notify would be an error here
    client.close_notify()
    assert wait_closed(stub, c).close_reason == errors.CLOSED_BY_CLIENT


# --- keys ---------------------------------------------------------------------------------------------------------------


def test_no_key_comes_back_in_any_answer_listing_event_log_or_command_line(start_broker, python_peer, certificates):
    broker = start_broker("--log-format", "json", "--log-level", "trace")
    stub = broker.stub()
    identity = certificates.good
    body = b"".join(line for line in identity.key_pem.splitlines() if not line.startswith(b"-----"))
    key = base64.b64decode(body)
    secrets = [body[:20], body[20:40], key[36:68], base64.b64encode(key[36:68]), key[36:68].hex().encode()]
    seen = []

    def check(message):
        seen.append(message)
        return message

    def error_of(call, *arguments, **named):
        with pytest.raises(grpc.RpcError) as caught:
            call(*arguments, **named)
        check(repr(caught.value.details()) + repr(caught.value.trailing_metadata()))

    server = check(
        stub.StartServer(
            servers.StartServerRequest(hosts=["127.0.0.1"], tls=certificates.server_options()), timeout=PATIENCE
        )
    ).server
    waiting = accept_later(stub, server)
    address = server.sockets[0].tcp.host, server.sockets[0].tcp.port
    client = certificates.client_context().wrap_socket(plain_client(address), server_hostname="localhost")
    c = check(waiting.result()).connection
    check(read_first_event(stub))
    check(stub.GetServer(servers.GetServerRequest(handle=server.handle), timeout=PATIENCE))
    check(stub.ListServers(servers.ListServersRequest(include_closed=True), timeout=PATIENCE))
    check(stub.ListConnections(connections.ListConnectionsRequest(include_closed=True), timeout=PATIENCE))
    check(get(stub, c))
    for name in "ssl_object", "cipher", "peercert", "socket":
        check(stub.GetExtraInfo(connections.GetExtraInfoRequest(handle=c.handle, name=name), timeout=PATIENCE))
    client.close()  # at once: there are tickets in its buffer, so this is a reset
    error_of(wait_closed, stub, c)
    check(get(stub, c))

    peer = python_peer(serve_upgrade(certificates.server_context(certificates.foreign), b""))
    with_key = certificates.client_options(identity, server_hostname="localhost")
    d = open_connection(stub, peer)
    error_of(start_tls, stub, d, with_key)
    error_of(open_connection, stub, peer, tls=with_key)
    check(get(stub, d))
    for wrong in (
        # A certificate of another key; keys in the wrong place, and damaged.
        certificates.options(certificate_pem=certificates.foreign.certificate_pem, private_key_pem=identity.key_pem),
        certificates.options(certificate_pem=identity.key_pem, private_key_pem=identity.key_pem),
        certificates.options(certificate_pem=identity.certificate_pem, private_key_pem=identity.key_pem[:120]),
        certificates.options(ca_pem=identity.key_pem),
        certificates.options(identity_name=body[:64].decode()),
        certificates.options(ciphers="no such cipher", private_key_pem=identity.key_pem),
    ):
        error_of(open_connection, stub, peer, tls=wrong)
        error_of(start_server, stub, tls=wrong)
    seen.append(broker.log())
    seen.append(pathlib.Path(f"/proc/{broker.pid}/cmdline").read_bytes())
    seen.append(pathlib.Path(f"/proc/{broker.pid}/environ").read_bytes())
    assert len(seen) > 25
    for message in seen:
        data = message.encode() if isinstance(message, str) else message
        data = data if isinstance(data, bytes) else data.SerializeToString()
        assert not [secret for secret in secrets if secret in data], message


def read_first_event(stub):
    events = stub.WatchConnections(connections.WatchConnectionsRequest(), timeout=PATIENCE)
    event = next(iter(events))
    events.cancel()
    return event


@pytest.fixture
def store(directory, certificates):
    path = directory / "store"
    path.mkdir()
    shutil.copy(certificates.good.certificate, path / "web.crt")
    shutil.copy(certificates.good.key, path / "web.key")
    shutil.copy(certificates.root.certificate, path / "root.ca")
    shutil.copy(certificates.good.certificate, path / "keyless.crt")
    for suffix in "crt", "key":  # beside the store
        shutil.copy(path / f"web.{suffix}", directory / f"outside.{suffix}")
    return path


def test_material_can_be_named_instead_of_sent(start_broker, store):
    stub = start_broker("--tls-store", store).stub()
    server, address = start_server(stub, tls=pb.TlsOptions(identity_name="web"))
    waiting = accept_later(stub, server)
    request = connections.OpenConnectionRequest(
        host="localhost", port=address[1], tls=pb.TlsOptions(ca_name="root"), family=endpoints.FAMILY_INET
    )
    client = stub.OpenConnection(request, timeout=PATIENCE).connection
    c = waiting.result().connection
    write(stub, client, b"named\n")
    assert read_line(stub, c) == b"named\n"


@pytest.mark.parametrize("name", ["none", "keyless", "../outside", "/etc/ssl/x", "..", ".web", "a/b", "web\0", "x" * 65])
def test_a_name_outside_of_the_store_or_not_in_it_is_refused(start_broker, store, directory, name):
    if name.startswith("/"):
        name = f"{directory}/outside"
    stub = start_broker("--tls-store", store).stub()
    assert refused(start_server, stub, tls=pb.TlsOptions(identity_name=name), code=INVALID).field == "tls.identity_name"
    with pytest.raises(grpc.RpcError) as caught:
        start_server(stub, tls=pb.TlsOptions(identity_name=name))
    assert str(store) not in caught.value.details()


def test_names_are_refused_where_there_is_no_store(stub):
    detail = refused(start_server, stub, tls=pb.TlsOptions(identity_name="web"), code=INVALID)
    assert detail.field == "tls.identity_name"
    assert "--tls-store" in detail.allowed


def test_the_key_log_gets_lines_that_only_its_owner_can_read(start_broker, directory, tls_echo, certificates):
    path = directory / "keys.log"
    stub = start_broker("--tls-key-log", path).stub()
    peer = tls_echo()
    open_connection(stub, peer, tls=certificates.client_options())
    open_connection(stub, peer, tls=certificates.client_options(max_version=pb.TLS_1_2))
    labels = {line.split()[0] for line in path.read_text().splitlines()}
    assert labels >= {"CLIENT_RANDOM", "CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
