"""TLS with nginx, behind a PROXY header too."""

from conftest import PATIENCE
from sockbroker.v1 import connection_pb2 as connections
from sockbroker.v1 import endpoint_pb2 as endpoints
from tls_kit import (
    certificates,  # noqa: F401
    close,
    open_connection,
    read_all,
    wait_closed,
    write,
)
from tls_peers import VERSIONS, nginx_tls, only  # noqa: F401


def http_get(stub, c):
    write(stub, c, b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    head, _, body = read_all(stub, c).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    return body


@VERSIONS
def test_nginx_answers_over_https(stub, nginx_tls, certificates, version):
    tls = certificates.client_options(alpn=["http/1.1"], **only(version))
    c = open_connection(stub, nginx_tls, host="localhost", tls=tls)
    assert c.tls.alpn == "http/1.1"
    assert http_get(stub, c) == f"over TLSv{version} to localhost\n".encode()
    close(stub, c)
    wait_closed(stub, c)


def test_nginx_takes_a_proxy_header_in_clear_in_front_of_tls(stub, nginx_tls, certificates):
    header = endpoints.ProxyProtocol(
        version=endpoints.ProxyProtocol.V2,
        source=endpoints.TcpEndpoint(host="192.0.2.7", port=1234),
        destination=endpoints.TcpEndpoint(host="192.0.2.8", port=443),
    )
    request = connections.OpenConnectionRequest(
        host="localhost", port=nginx_tls.proxied_port, tls=certificates.client_options(), proxy_protocol=header
    )
    c = stub.OpenConnection(request, timeout=PATIENCE).connection
    assert http_get(stub, c) == b"for 192.0.2.7\n"
