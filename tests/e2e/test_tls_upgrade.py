"""StartTls: what an upgrade does to the bytes around it, and handshakes that fail."""

import os

import grpc
import pytest
from conftest import PATIENCE, error_detail, wait_until
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
    read_exactly,
    read_line,
    receive_line,
    refused,
    serve_upgrade,
    start_server,
    start_tls,
    start_tls_later,
    wait_closed,
    write,
)

# --- an upgrade at an exact byte ----------------------------------------------------------------------------------------

READY = b"220 ready\r\n"
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def test_unread_plaintext_refuses_an_upgrade_without_an_offset_and_the_connection_goes_on(
    stub, python_peer, certificates
):
    peer = python_peer(lambda s: (s.sendall(READY + b"EVIL"), echo_lines(s)))
    c = open_connection(stub, peer)
    wait_until(lambda: get(stub, c).offsets.received == 15, "all of it is there")
    assert read_line(stub, c) == READY
    detail = refused(start_tls, stub, c, certificates.client_options())
    assert detail.reason == errors.UNREAD_PLAINTEXT
    assert (detail.offsets.read_offset, detail.offsets.received) == (11, 15)
    assert not get(stub, c).HasField("tls")
    assert read_exactly(stub, c, 4) == b"EVIL"
    write(stub, c, b"in clear\n")
    assert read_line(stub, c) == b"in clear\n"


@pytest.mark.parametrize("returned", [False, True], ids=["buffered", "returned by a read"])
def test_plaintext_glued_behind_the_answer_goes_to_the_clients_handshake_and_fails_it(
    stub, python_peer, certificates, returned
):
    c = open_connection(stub, python_peer(serve_upgrade(certificates.server_context(), READY + b"EVIL")))
    wait_until(lambda: get(stub, c).offsets.received == 15, "all of it is there")
    if returned:
        assert read(stub, c, offset=0).data == READY + b"EVIL"
    else:
        assert read_line(stub, c, offset=0) == READY
    tls = certificates.client_options(server_hostname="localhost")
    assert refused(start_tls, stub, c, tls, read_offset=11).reason == errors.TLS_FAILED
    for offset in None, 11, 15:
        more = {} if offset is None else {"offset": offset}
        with pytest.raises(grpc.RpcError):
            read(stub, c, **more)


@pytest.mark.parametrize("returned", [False, True], ids=["buffered", "returned by a read"])
def test_plaintext_glued_behind_the_command_goes_to_the_servers_handshake_and_fails_it(
    stub, accepted, certificates, returned
):
    s, c = accepted()
    hello = TlsEnd(s, certificates.client_context(), server_hostname="localhost").hello()
    s.sendall(b"STARTTLS\r\nEVIL" + hello)
    wait_until(lambda: get(stub, c).offsets.received == 14 + len(hello), "all of it is there")
    if returned:
        assert len(read(stub, c, offset=0).data) == 14 + len(hello)
    else:
        assert read_line(stub, c, offset=0) == b"STARTTLS\r\n"
    assert refused(start_tls, stub, c, certificates.server_options(), read_offset=10).reason == errors.TLS_FAILED
    with pytest.raises(grpc.RpcError):
        read(stub, c)


@pytest.mark.parametrize("returned", [False, True], ids=["buffered", "returned by a read"])
def test_a_client_hello_glued_behind_the_command_succeeds_and_no_offset_names_two_bytes(
    stub, accepted, certificates, returned
):
    s, c = accepted()
    client = TlsEnd(s, certificates.client_context(), server_hostname="localhost")
    hello = client.hello()
    s.sendall(b"STARTTLS\r\n" + hello)
    wait_until(lambda: get(stub, c).offsets.received == 10 + len(hello), "all of it is there")
    if returned:
        given = len(read(stub, c, offset=0).data)
        assert given == 10 + len(hello)
    else:
        given = len(read_line(stub, c, offset=0))
    upgrade = start_tls_later(stub, c, certificates.server_options(), read_offset=10)
    client.handshake()
    answer = upgrade.result()
    assert answer.tls.server_side and answer.tls.server_name == "localhost"
    assert answer.read_offset >= given
    client.sendall(b"protected\n")
    line = stub.ReadLine(io.ReadLineRequest(handle=c.handle, offset=answer.read_offset), timeout=PATIENCE)
    assert (line.offset, line.data) == (answer.read_offset, b"protected\n")
    # A kept read repeated; and nothing below the upgrade can be had again.
    assert read_line(stub, c, offset=answer.read_offset) == b"protected\n"
    code = grpc.StatusCode.OUT_OF_RANGE
    for below in 0, answer.read_offset - 1:
        assert refused(read, stub, c, offset=below, code=code).offsets.read_kept == answer.read_offset
    assert write(stub, c, b"back\n").write_offset == answer.write_offset + 5
    assert receive_line(client) == b"back\n"
    told = get(stub, c).tls
    assert (told.read_offset, told.write_offset) == (answer.read_offset, answer.write_offset) == (told.read_offset, 0)


def test_a_client_hello_glued_behind_a_proxy_header_succeeds(stub, certificates):
    options = servers.ServerOptions(proxy_protocol=endpoints.ProxyProtocol())
    server, address = start_server(stub, options=options, tls=certificates.server_options())
    waiting = accept_later(stub, server)
    with plain_client(address) as s:
        client = TlsEnd(s, certificates.client_context(), server_hostname="localhost")
        s.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + client.hello())
        client.handshake()
        c = waiting.result().connection
        assert c.proxied_source.host == "192.0.2.1"
        client.sendall(b"protected\n")
        answer = read(stub, c)
        assert (answer.offset, answer.data) == (0, b"protected\n")
        assert (c.tls.read_offset, c.tls.write_offset) == (0, 0)


def test_an_offset_outside_of_what_is_held_is_out_of_range_and_changes_nothing(stub, accepted, certificates):
    s, c = accepted()
    s.sendall(b"0123456789")
    assert read_exactly(stub, c, 4) == b"0123"
    for offset in 3, 11:
        call = dict(read_offset=offset, code=grpc.StatusCode.OUT_OF_RANGE)
        assert refused(start_tls, stub, c, certificates.server_options(), **call).reason == errors.OFFSET_OUT_OF_RANGE
    assert read_exactly(stub, c, 6) == b"456789"


def test_a_retry_with_the_same_id_gets_the_same_answer(stub, python_peer, certificates):
    c = open_connection(stub, python_peer(serve_upgrade(certificates.server_context(), READY)))
    assert read_line(stub, c, offset=0) == READY
    tls, request_id = certificates.client_options(server_hostname="localhost"), os.urandom(16)
    answers = [start_tls(stub, c, tls, read_offset=11, request_id=request_id) for _ in range(3)]
    assert answers[0].tls.version == "TLSv1.3"
    assert answers[0] == answers[1] == answers[2]
    other = certificates.client_options(server_hostname="127.0.0.1")
    detail = refused(start_tls, stub, c, other, read_offset=11, request_id=request_id, code=INVALID)
    assert detail.reason == errors.DIFFERENT_REQUEST
    write(stub, c, b"x\n")
    assert read_line(stub, c) == b"x\n"


def test_a_retry_of_a_failed_upgrade_gets_the_same_error(stub, python_peer, certificates):
    c = open_connection(stub, python_peer(serve_upgrade(certificates.server_context(certificates.foreign), READY)))
    assert read_line(stub, c, offset=0) == READY
    call = dict(read_offset=11, request_id=os.urandom(16))
    tls = certificates.client_options(server_hostname="localhost")
    first, second = (refused(start_tls, stub, c, tls, **call) for _ in range(2))
    assert first.tls_verify_result == "unable to get local issuer certificate"
    assert first == second


def test_an_upgrade_with_an_id_goes_on_when_its_caller_has_gone(stub, accepted, certificates):
    s, c = accepted()
    tls, request_id = certificates.server_options(), os.urandom(16)
    call = start_tls_later(stub, c, tls, request_id=request_id)
    wait_for_upgrade(stub, c, certificates)
    call.cancel()
    client = TlsEnd(s, certificates.client_context(), server_hostname="localhost").handshake()
    assert start_tls(stub, c, tls, request_id=request_id).tls.version == "TLSv1.3"
    client.sendall(b"x\n")
    assert read_line(stub, c) == b"x\n"


def test_an_upgrade_without_an_id_ends_with_its_caller_and_ends_the_connection(stub, accepted, certificates):
    s, c = accepted()
    call = start_tls_later(stub, c, certificates.server_options())
    wait_for_upgrade(stub, c, certificates)
    call.cancel()
    assert s.recv(100) == b""
    with pytest.raises(grpc.RpcError):
        wait_closed(stub, c)
    assert get(stub, c).state == connections.CONNECTION_STATE_CLOSED


def wait_for_upgrade(stub, c, certificates):
    """Until a StartTls is under way: a second one says so."""

    def pending():
        with pytest.raises(grpc.RpcError) as caught:
            # Where there is no offset to begin at, it never begins itself.
            start_tls(stub, c, certificates.server_options(), side=pb.StartTlsRequest.SERVER, read_offset=1 << 40)
        return error_detail(caught.value).reason == errors.UPGRADE_PENDING

    wait_until(pending, "the upgrade is under way")


def test_a_second_upgrade_during_the_first_is_refused_and_the_first_goes_on(stub, accepted, certificates):
    s, c = accepted()
    upgrade = start_tls_later(stub, c, certificates.server_options())
    wait_for_upgrade(stub, c, certificates)
    assert refused(start_tls, stub, c, certificates.server_options()).reason == errors.UPGRADE_PENDING
    TlsEnd(s, certificates.client_context(), server_hostname="localhost").handshake()
    assert upgrade.result().tls.version == "TLSv1.3"


def test_an_upgrade_of_what_is_protected_already_is_tls_in_tls(stub, accepted, certificates):
    s, c = accepted()
    first = start_tls_later(stub, c, certificates.server_options(), read_offset=0)
    outer = TlsEnd(s, certificates.client_context(), server_hostname="localhost").handshake()
    begin = first.result().read_offset
    outer.sendall(b"again\n")
    assert read_line(stub, c, offset=begin) == b"again\n"
    second = start_tls_later(stub, c, certificates.server_options(), read_offset=begin + 6)
    inner = TlsEnd(outer, certificates.client_context(), server_hostname="localhost").handshake()
    assert second.result().read_offset >= begin + 6
    inner.sendall(b"twice protected\n")
    assert read_line(stub, c) == b"twice protected\n"
    write(stub, c, b"back\n")
    assert receive_line(inner) == b"back\n"


def wait_for_read(stub, c):
    """Until a read of `c` waits: one that can't be served says so."""

    def pending():
        code = grpc.StatusCode
        with pytest.raises(grpc.RpcError) as caught:
            read(stub, c, 1, offset=1 << 40)
        return caught.value.code() == code.FAILED_PRECONDITION

    wait_until(pending, "the read waits")


def test_a_read_that_waits_across_the_upgrade_gets_decrypted_data(stub, accepted, certificates):
    s, c = accepted()
    waiting = stub.Read.future(io.ReadRequest(handle=c.handle, n=100), timeout=PATIENCE)
    wait_for_read(stub, c)
    upgrade = start_tls_later(stub, c, certificates.server_options())
    wait_for_upgrade(stub, c, certificates)
    client = TlsEnd(s, certificates.client_context(), server_hostname="localhost").handshake()
    answer = upgrade.result()
    client.sendall(b"protected")
    assert waiting.result().data == b"protected"
    assert waiting.result().offset == answer.read_offset


def test_what_was_written_before_goes_out_in_front_and_in_clear(stub, accepted, certificates):
    s, c = accepted()
    data = os.urandom(1 << 20)
    for _ in range(6):  # more than the kernel's buffers hold
        write(stub, c, data)
    assert get(stub, c).write_buffered > 0
    upgrade = start_tls_later(stub, c, certificates.server_options())
    wait_for_upgrade(stub, c, certificates)
    write(stub, c, b"protected\n")  # does not wait for the handshake, and is not sent in clear
    received = bytearray()
    while len(received) < 6 << 20:
        received += s.recv(min(1 << 20, (6 << 20) - len(received)))
    assert received == data * 6
    client = TlsEnd(s, certificates.client_context(), server_hostname="localhost").handshake()
    assert upgrade.result().write_offset == 6 << 20
    assert receive_line(client) == b"protected\n"


def test_after_write_eof_there_is_no_upgrade(stub, accepted, certificates):
    s, c = accepted()
    stub.WriteEof(io.WriteEofRequest(handle=c.handle), timeout=PATIENCE)
    assert refused(start_tls, stub, c, certificates.server_options()).reason == errors.WRITE_AFTER_EOF
    s.sendall(b"goes on\n")
    assert read_line(stub, c) == b"goes on\n"


def test_on_a_closed_connection_there_is_no_upgrade(stub, accepted, certificates):
    _, c = accepted()
    close(stub, c)
    wait_closed(stub, c)
    detail = refused(start_tls, stub, c, certificates.server_options())
    assert (detail.reason, detail.close_reason) == (errors.CLOSED, errors.CLOSED_BY_CLIENT)


def test_a_side_that_is_neither_is_refused(stub, accepted, certificates):
    _, c = accepted()
    assert refused(start_tls, stub, c, certificates.server_options(), side=7, code=INVALID).field == "side"


def test_either_side_may_be_the_tls_client(stub, accepted, python_peer, certificates):
    s, c = accepted()
    tls = certificates.client_options(server_hostname="localhost")
    upgrade = start_tls_later(stub, c, tls, side=pb.StartTlsRequest.CLIENT)
    TlsEnd(s, certificates.server_context(), server_side=True).handshake()
    assert not upgrade.result().tls.server_side

    def serve(s):
        echo_lines(TlsEnd(s, certificates.client_context(), server_hostname="localhost").handshake())

    d = open_connection(stub, python_peer(serve))
    call = dict(side=pb.StartTlsRequest.SERVER, read_offset=0)
    assert start_tls(stub, d, certificates.server_options(), **call).tls.server_side


def test_an_upgrade_checks_no_name_unless_one_is_given(stub, python_peer, certificates):
    peer = python_peer(serve_upgrade(certificates.server_context(certificates.wrong_host), b""))
    answer = start_tls(stub, open_connection(stub, peer), certificates.client_options(server_hostname=""))
    assert answer.tls.server_name == ""
    tls = certificates.client_options(server_hostname="localhost")
    assert "mismatch" in refused(start_tls, stub, open_connection(stub, peer), tls).tls_verify_result


def test_a_write_that_demands_tls_is_refused_in_clear_and_taken_after_the_upgrade(stub, accepted, certificates):
    s, c = accepted()
    assert refused(write, stub, c, b"secret\n", require_tls=True).reason == errors.NOT_TLS
    upgrade = start_tls_later(stub, c, certificates.server_options(), read_offset=0)
    client = TlsEnd(s, certificates.client_context(), server_hostname="localhost").handshake()
    upgrade.result()
    write(stub, c, b"secret\n", require_tls=True)
    assert receive_line(client) == b"secret\n"


# --- handshakes that fail -----------------------------------------------------------------------------------------------


@pytest.fixture
def silent_peer(python_peer):
    """Accepts, and says nothing."""

    def serve(s):
        while s.recv(65536):
            pass

    return python_peer(serve)


def test_a_peer_that_stalls_the_handshake_is_timed_out(stub, silent_peer, certificates):
    tls = certificates.client_options(handshake_timeout=0.2, server_hostname="localhost")
    code = grpc.StatusCode.DEADLINE_EXCEEDED
    detail = refused(open_connection, stub, silent_peer, tls=tls, code=code)
    assert (detail.reason, detail.phase) == (errors.TIMED_OUT, errors.PHASE_HANDSHAKE)
    c = open_connection(stub, silent_peer)
    detail = refused(start_tls, stub, c, tls, code=code)
    assert (detail.reason, detail.phase) == (errors.TIMED_OUT, errors.PHASE_HANDSHAKE)
    gone = wait_until(lambda: get(stub, c).closed_at.seconds and get(stub, c), "it is closed")
    assert (gone.close_reason, gone.close_phase) == (errors.ENDED_BY_TIMEOUT, errors.PHASE_HANDSHAKE)


def test_handshakes_that_stall_hold_up_nobody_elses_accept(stub, certificates):
    server, address = start_server(stub, tls=certificates.server_options())
    silent = [plain_client(address) for _ in range(20)]
    half = TlsEnd(None, certificates.client_context(), server_hostname="localhost").hello()
    for s in silent[::2]:
        s.sendall(half[:100])
    for _ in range(3):
        waiting = accept_later(stub, server)
        with certificates.client_context().wrap_socket(plain_client(address), server_hostname="localhost") as client:
            c = waiting.result().connection
            client.sendall(b"x\n")
            assert read_line(stub, c) == b"x\n"
    for s in silent:
        s.close()


def test_any_number_of_silent_clients_delays_nobody(start_broker, certificates):
    broker = start_broker(limit=600)  # so that 43 handshakes may stall at once
    stub = broker.stub()
    server, address = start_server(stub, tls=certificates.server_options(), options=servers.ServerOptions(backlog=1000))
    silent = [plain_client(address) for _ in range(400)]
    half = TlsEnd(None, certificates.client_context(), server_hostname="localhost").hello()
    for s in silent[::2]:
        s.sendall(half[:100])
    for _ in range(3):
        waiting = accept_later(stub, server)
        with certificates.client_context().wrap_socket(plain_client(address), server_hostname="localhost") as client:
            c = waiting.result().connection
            client.sendall(b"x\n")
            assert read_line(stub, c) == b"x\n"
            close(stub, c)
    assert broker.descriptors() < 200
    with pytest.raises(ConnectionResetError):
        silent[1].recv(1)
    for s in silent:
        s.close()


def test_garbage_instead_of_a_server_hello_is_an_error_and_so_is_an_end(stub, python_peer, certificates):
    tls = certificates.client_options(server_hostname="localhost")
    garbage = python_peer(lambda s: (s.recv(65536), s.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), s.recv(65536)))
    assert refused(open_connection, stub, garbage, tls=tls).reason == errors.TLS_FAILED
    assert refused(start_tls, stub, open_connection(stub, garbage), tls).reason == errors.TLS_FAILED
    ends = python_peer(lambda s: s.recv(65536))
    assert refused(open_connection, stub, ends, tls=tls).reason == errors.CONNECTION_RESET


def test_a_failed_upgrade_closes_the_connection_and_tells_everybody_why(stub, python_peer, certificates):
    c = open_connection(stub, python_peer(serve_upgrade(certificates.server_context(certificates.expired), b"")))
    handle = c.handle
    waiting = [
        stub.Read.future(io.ReadRequest(handle=handle, n=1), timeout=PATIENCE),
        stub.WaitClosed.future(connections.WaitClosedRequest(handle=handle), timeout=PATIENCE),
    ]
    wait_for_read(stub, c)
    call = [start_tls, stub, c, certificates.client_options(server_hostname="localhost")]
    expired = "certificate has expired"
    details = [refused(*call), *map(refused, waiting), refused(read, stub, c), refused(wait_closed, stub, c)]
    assert [(d.reason, d.tls_verify_result) for d in details] == [(errors.TLS_FAILED, expired)] * 5
    gone = get(stub, c)
    assert (gone.state, gone.close_reason) == (connections.CONNECTION_STATE_CLOSED, errors.TLS_FAILED)
    assert expired in gone.close_message
    detail = refused(write, stub, c, b"x")
    assert (detail.reason, detail.close_reason) == (errors.CLOSED, errors.TLS_FAILED)
