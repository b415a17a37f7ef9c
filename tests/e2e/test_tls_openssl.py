"""TLS with openssl's own client and server."""

import fcntl
import hashlib
import os
import struct
import termios
import threading

from conftest import PATIENCE, wait_until
from sockbroker.v1 import error_pb2 as errors
from sockbroker.v1 import io_pb2 as io
from tls_kit import (
    accept,
    accept_later,
    certificates,  # noqa: F401
    close,
    get,
    open_connection,
    read_all,
    read_line,
    start_server,
    wait_closed,
    write,
)
from tls_peers import VERSIONS, openssl_flag, s_client, s_server  # noqa: F401


@VERSIONS
def test_openssl_s_server_is_spoken_to(stub, s_server, certificates, version):
    peer = s_server(openssl_flag(version))
    tls = certificates.client_options(server_hostname="localhost")
    c = open_connection(stub, peer, tls=tls)
    assert c.tls.version == f"TLSv{version}"
    assert not c.tls.server_side
    assert (c.tls.server_name, c.tls.verify_code, c.tls.verify_text) == ("localhost", 0, "ok")
    assert list(c.tls.peer_certificates[0].subject_alt_names) == ["DNS:localhost", "IP:127.0.0.1"]
    write(stub, c, b"hello\n")
    assert read_line(stub, c) == b"olleh\n"
    close(stub, c)
    assert wait_closed(stub, c).tls.version == f"TLSv{version}"


@VERSIONS
def test_openssl_s_client_is_served(stub, s_client, certificates, version):
    server, address = start_server(stub, tls=certificates.server_options(alpn=["h2", "echo"]))
    client = s_client(address, openssl_flag(version), "-servername", "localhost", "-alpn", "other,echo")
    c = accept(stub, server)
    assert c.tls.version == f"TLSv{version}"
    assert c.tls.server_side
    assert (c.tls.server_name, c.tls.alpn) == ("localhost", "echo")
    assert not c.tls.peer_certificates
    client.stdin.write(b"hello\n")
    assert read_line(stub, c) == b"hello\n"
    write(stub, c, b"good day\n")
    assert client.stdout.readline() == b"good day\n"
    client.stdin.close()
    assert read_all(stub, c) == b""
    assert wait_closed(stub, c).close_reason != errors.TLS_TRUNCATED


@VERSIONS
def test_openssl_s_client_shows_its_certificate_when_that_is_demanded(stub, s_client, certificates, version):
    tls = certificates.server_options(ca_pem=certificates.root.certificate_pem)
    server, address = start_server(stub, tls=tls)
    waiting = accept_later(stub, server)
    without = s_client(address, openssl_flag(version))
    assert without.stderr.read().lower().count(b"alert") > 0
    s_client(address, openssl_flag(version), "-cert", certificates.client.certificate, "-key", certificates.client.key)
    c = waiting.result().connection
    assert c.tls.verify_code == 0
    assert c.tls.peer_certificates[0].subject == "CN=client,O=sockbroker"
    assert list(c.tls.peer_certificates[0].subject_alt_names) == ["URI:spiffe://tests/client"]


@VERSIONS
def test_openssl_s_server_demands_our_certificate_and_gets_it(stub, s_server, certificates, version):
    peer = s_server(openssl_flag(version), "-Verify", "3", "-verify_return_error")
    c = open_connection(stub, peer, tls=certificates.client_options(certificates.client))
    write(stub, c, b"me\n")
    assert read_line(stub, c) == b"em\n"
    assert "CN = client" in peer.log.read_text()


@VERSIONS
def test_a_second_connection_to_openssl_resumes_the_session(stub, s_server, certificates, version):
    peer = s_server(openssl_flag(version))
    tls = certificates.client_options(server_hostname="localhost")
    resumed = []
    for _ in range(2):
        c = open_connection(stub, peer, tls=tls)
        write(stub, c, b"x\n")
        assert read_line(stub, c) == b"x\n"  # TLS 1.3: the tickets came before it
        resumed.append(c.tls.resumed)
        close(stub, c)
        wait_closed(stub, c)
    assert resumed == [False, True]
    alone = open_connection(stub, peer, tls=certificates.client_options(server_hostname="localhost",
                                                                        session_resumption=False))  # fmt: skip
    assert not alone.tls.resumed


def test_openssl_s_client_resumes_a_session_with_the_broker(stub, s_client, certificates, directory):
    server, address = start_server(stub, tls=certificates.server_options())
    session = directory / "session"
    resumed = []
    for flag in "-sess_out", "-sess_in":
        client = s_client(address, flag, session)
        c = accept(stub, server)
        resumed.append(c.tls.resumed)
        write(stub, c, b"x\n")
        assert client.stdout.readline() == b"x\n"
        client.stdin.close()
        assert client.wait(PATIENCE) == 0
    assert resumed == [False, True]


def test_a_renegotiation_is_refused(stub, s_client, certificates):
    server, address = start_server(stub, tls=certificates.server_options())
    client = s_client(address, "-tls1_2")
    c = accept(stub, server)
    client.stdin.write(b"before\n")
    assert read_line(stub, c) == b"before\n"
    client.stdin.write(b"R\n")
    assert b"no renegotiation" in client.stderr.read()


def in_pipe(pipe):
    """How many bytes nobody has taken yet."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]


def transfer(stub, client, c, size, key_update_every):
    """`size` bytes each way between an s_client and the broker's `c`, while the client renews the keys of both sides
    again and again; the hashes of what was sent and what came, per direction."""
    block = os.urandom(1 << 19).hex().encode()  # no line of it is a command of s_client's
    pieces, hashes = size >> 20, {}

    def piece(i, step):
        cut = i * step % len(block)
        return block[cut:] + block[:cut]

    def client_sends():
        digest = hashlib.sha256()
        for i in range(pieces):
            if i % key_update_every == key_update_every - 1:
                # A command is what a read of s_client's begins with.
                wait_until(lambda: in_pipe(client.stdin) == 0, "s_client takes what it was given")
                client.stdin.write(b"K\n")
                wait_until(lambda: in_pipe(client.stdin) == 0, "s_client takes the command")
            data = piece(i, 1009)
            digest.update(data)
            view = memoryview(data)
            while view:
                view = view[client.stdin.write(view) :]
        hashes["sent by the client"] = digest.hexdigest()

    def client_receives():
        digest, left = hashlib.sha256(), size
        while left and (data := client.stdout.read(min(left, 1 << 20))):
            digest.update(data)
            left -= len(data)
        hashes["received by the client"] = digest.hexdigest()

    def broker_sends():
        digest = hashlib.sha256()
        for i in range(pieces):
            data = piece(i, 977)
            digest.update(data)
            write(stub, c, data, drain=True)
        hashes["sent by the broker"] = digest.hexdigest()

    def broker_receives():
        digest, offset = hashlib.sha256(), get(stub, c).offsets.read_offset
        end = offset + size
        while offset < end:
            request = io.ReadRequest(handle=c.handle, n=min(1 << 20, end - offset), offset=offset)
            answer = stub.Read(request, timeout=PATIENCE)
            assert answer.offset == offset and answer.data
            digest.update(answer.data)
            offset += len(answer.data)
        hashes["received by the broker"] = digest.hexdigest()

    threads = [threading.Thread(target=f) for f in (client_sends, client_receives, broker_sends, broker_receives)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return hashes


def check_transfer(stub, s_client, certificates, size, key_update_every):
    server, address = start_server(stub, tls=certificates.server_options())
    client = s_client(address, "-tls1_3")
    c = accept(stub, server)
    hashes = transfer(stub, client, c, size, key_update_every)
    assert hashes["sent by the client"] == hashes["received by the broker"]
    assert hashes["sent by the broker"] == hashes["received by the client"]
    client.stdin.close()
    assert read_all(stub, c) == b""
    assert client.stderr.read().count(b"KEYUPDATE") == size // key_update_every >> 20


def test_64_mib_both_ways_with_key_updates_in_the_middle_arrive_unchanged(stub, s_client, certificates):
    check_transfer(stub, s_client, certificates, 64 << 20, 8)


def test_openssl_s_server_renews_the_keys_in_the_middle(stub, s_server, certificates):
    peer = s_server("-tls1_3", rev=False)
    c = open_connection(stub, peer, tls=certificates.client_options())
    for i in range(5):
        peer.stdin.write(b"K\n")
        peer.stdin.flush()
        wait_until(lambda: in_pipe(peer.stdin) == 0, "s_server takes the command")
        peer.stdin.write(b"answer %d\n" % i)
        peer.stdin.flush()
        assert read_line(stub, c) == b"answer %d\n" % i
        write(stub, c, b"question %d\n" % i)
        wait_until(lambda i=i: b"question %d\n" % i in peer.log.read_bytes(), "s_server got it")
