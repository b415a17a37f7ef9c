"""TLS with Python's ssl, and what asyncio tells of a connection."""

import hashlib
import os
import socket
import ssl

from conftest import PATIENCE, wait_until
from sockbroker.v1 import connection_pb2 as connections
from sockbroker.v1 import server_pb2 as servers
from tls_kit import (
    accept_later,
    certificates,  # noqa: F401
    close,
    echo_lines,
    extra_info,
    get,
    open_connection,
    plain_client,
    read_exactly,
    receive_line,
    start_server,
    wait_closed,
    write,
)
from tls_peers import VERSIONS


@VERSIONS
def test_pythons_ssl_is_spoken_to_over_tcp_and_over_a_unix_socket(stub, python_peer, certificates, directory, version):
    context = certificates.server_context(version=getattr(ssl.TLSVersion, "TLSv" + version.replace(".", "_")))

    def serve(s):
        echo_lines(context.wrap_socket(s, server_side=True))

    c = open_connection(stub, python_peer(serve), tls=certificates.client_options())
    path = str(directory / "peer.sock")
    python_peer(serve, path=path)
    tls = certificates.client_options(server_hostname="localhost")
    u = stub.OpenUnixConnection(connections.OpenUnixConnectionRequest(path=path.encode(), tls=tls), timeout=PATIENCE)
    for connection in c, u.connection:
        assert connection.tls.version == f"TLSv{version}"
        data = os.urandom(1 << 20)
        write(stub, connection, data)
        assert read_exactly(stub, connection, len(data)) == data
        close(stub, connection)
        wait_closed(stub, connection)


@VERSIONS
def test_pythons_ssl_is_served_over_tcp_and_over_a_unix_socket(stub, certificates, directory, version):
    context = certificates.client_context(version=getattr(ssl.TLSVersion, "TLSv" + version.replace(".", "_")))
    tcp, address = start_server(stub, tls=certificates.server_options())
    path = str(directory / "server.sock")
    request = servers.StartUnixServerRequest(path=path.encode(), tls=certificates.server_options())
    unix = stub.StartUnixServer(request, timeout=PATIENCE).server
    for server, dial in (tcp, lambda: plain_client(address)), (unix, lambda: unix_client(path)):
        waiting = accept_later(stub, server)
        with context.wrap_socket(dial(), server_hostname="localhost") as client:
            c = waiting.result().connection
            data = os.urandom(100_000)
            client.sendall(data)
            assert read_exactly(stub, c, len(data)) == data
            write(stub, c, b"back\n")
            assert receive_line(client) == b"back\n"


def unix_client(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(PATIENCE)
    s.connect(path)
    return s


@VERSIONS
def test_get_extra_info_has_what_asyncio_has(stub, python_peer, certificates, version):
    context = certificates.server_context(
        version=getattr(ssl.TLSVersion, "TLSv" + version.replace(".", "_")), demand_client=True, alpn=["b"]
    )
    ciphers = []

    def serve(s):
        tls = context.wrap_socket(s, server_side=True)
        ciphers.append(tls.cipher())
        echo_lines(tls)

    peer = python_peer(serve)
    c = open_connection(stub, peer, tls=certificates.client_options(certificates.client, alpn=["a", "b"]))
    wait_until(lambda: ciphers, "the peer's handshake")
    told = extra_info(stub, c, "ssl_object").tls
    assert told == get(stub, c).tls == c.tls
    assert told.alpn == "b"
    cipher = extra_info(stub, c, "cipher").cipher
    assert (cipher.name, cipher.bits) == (ciphers[0][0], ciphers[0][2])
    certificate = extra_info(stub, c, "peercert").certificate
    assert ssl.DER_cert_to_PEM_cert(certificate.der).encode() == certificates.good.certificate_pem
    assert certificate.issuer == "CN=Root of the tests,O=sockbroker"
    assert certificate.sha256_fingerprint.replace(":", "").lower() == hashlib.sha256(certificate.der).hexdigest()
    assert certificate.not_before.seconds < certificate.not_after.seconds
    assert extra_info(stub, c, "peername").endpoint.tcp.port == peer.port
    assert extra_info(stub, c, "sslcontext").WhichOneof("value") is None
    close(stub, c)
    assert extra_info(stub, wait_closed(stub, c), "ssl_object").tls == told
    plain = open_connection(stub, python_peer(echo_lines))
    for name in "ssl_object", "cipher", "peercert":
        assert extra_info(stub, plain, name).WhichOneof("value") is None
