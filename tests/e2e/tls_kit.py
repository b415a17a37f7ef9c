"""What the tests of TLS share: certificates made on the spot by `openssl`, a TLS end without a socket of its own, and
the RPCs in few words.

    def test_speaks(stub, python_peer, certificates):
        peer = python_peer(lambda s: serve(certificates.server_context().wrap_socket(s, server_side=True)))
        c = open_connection(stub, peer, tls=certificates.client_options())"""

import dataclasses
import pathlib
import socket
import ssl
import subprocess

import grpc
import pytest
from conftest import PATIENCE, error_detail, program
from sockbroker.v1 import connection_pb2 as connections
from sockbroker.v1 import io_pb2 as io
from sockbroker.v1 import server_pb2 as servers
from sockbroker.v1 import tls_pb2 as pb

# --- certificates -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Identity:
    """A certificate and its key, as files."""

    certificate: pathlib.Path
    key: pathlib.Path

    @property
    def certificate_pem(self):
        return self.certificate.read_bytes()

    @property
    def key_pem(self):
        return self.key.read_bytes()


class Certificates:
    """`root` vouches for `good` (localhost, 127.0.0.1), `expired`, `wrong_host` and `client`; nobody that anybody trusts
    for `self_signed` and `foreign`."""

    def __init__(self, directory):
        self._directory = directory
        self.root = self._self_signed("root", "Root of the tests")
        self.other_root = self._self_signed("other-root", "Another root")
        self.good = self._issue("good", self.root)
        self.expired = self._issue("expired", self.root, days=-1)
        self.wrong_host = self._issue("wrong-host", self.root, names="DNS:elsewhere.example")
        self.foreign = self._issue("foreign", self.other_root)
        self.client = self._issue("client", self.root, names="URI:spiffe://tests/client")
        self.self_signed = self._self_signed("self-signed", "localhost", "DNS:localhost,IP:127.0.0.1")

    def _openssl(self, *arguments):
        subprocess.run([program("openssl"), *map(str, arguments)], check=True, capture_output=True, timeout=PATIENCE)

    def _identity(self, name):
        return Identity(self._directory / f"{name}.crt", self._directory / f"{name}.key")

    def _new_key(self, identity, subject, names):
        command = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-keyout", identity.key, "-subj", f"/O=sockbroker/CN={subject}"]
        return command + (["-addext", f"subjectAltName={names}"] if names else [])

    def _self_signed(self, name, subject, names=None):
        identity = self._identity(name)
        self._openssl(*self._new_key(identity, subject, names), "-x509", "-days", 2, "-out", identity.certificate)
        return identity

    def _issue(self, name, issuer, names="DNS:localhost,IP:127.0.0.1", days=2):
        identity = self._identity(name)
        request = self._directory / f"{name}.csr"
        self._openssl(*self._new_key(identity, name, names), "-out", request)
        self._openssl("x509", "-req", "-in", request, "-copy_extensions", "copy", "-days", days, "-out",
                      identity.certificate, "-CA", issuer.certificate, "-CAkey", issuer.key)  # fmt: skip
        return identity

    # Python's ssl.

    def server_context(self, identity=None, version=None, demand_client=False, alpn=()):
        identity = identity or self.good
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.certificate, identity.key)
        return self._finish(context, version, demand_client, alpn)

    def client_context(self, identity=None, version=None, alpn=()):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if identity is not None:
            context.load_cert_chain(identity.certificate, identity.key)
        return self._finish(context, version, True, alpn)

    def _finish(self, context, version, verify, alpn):
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if verify:
            context.load_verify_locations(self.root.certificate)
            context.verify_mode = ssl.CERT_REQUIRED
        if alpn:
            context.set_alpn_protocols(alpn)
        return context

    # The broker's.

    def client_options(self, identity=None, **more):
        """A client that trusts `root`."""
        more.setdefault("ca_pem", self.root.certificate_pem)
        return self.options(identity, **more)

    def server_options(self, identity=None, **more):
        return self.options(identity or self.good, **more)

    def options(self, identity=None, handshake_timeout=None, shutdown_timeout=None, **more):
        options = pb.TlsOptions(**more)
        if identity is not None:
            options.certificate_pem, options.private_key_pem = identity.certificate_pem, identity.key_pem
        for name, seconds in ("handshake_timeout", handshake_timeout), ("shutdown_timeout", shutdown_timeout):
            if seconds is not None:
                getattr(options, name).FromMilliseconds(int(seconds * 1000))
        return options


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


# --- a TLS end ----------------------------------------------------------------------------------------------------------


class TlsEnd:
    """TLS of Python's over anything with recv and sendall, another TlsEnd included. What goes out first can be had by
    itself, to be glued to other bytes."""

    def __init__(self, below, context, **wrap):
        self._below = below
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, **wrap)

    def hello(self):
        """A client's first flight."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._outgoing.read()

    def handshake(self):
        self._run(self.tls.do_handshake)
        return self

    def recv(self, size):
        try:
            return self._run(self.tls.read, size)
        except ssl.SSLZeroReturnError:
            return b""

    def sendall(self, data):
        self._run(self.tls.write, data)

    def close_notify(self):
        """Ends our direction; does not wait for the other's."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self._flush()

    def receive_exactly(self, size):
        data = b""
        while len(data) < size and (more := self.recv(size - len(data))):
            data += more
        return data

    def _flush(self):
        if data := self._outgoing.read():
            self._below.sendall(data)

    def _run(self, call, *arguments):
        while True:
            try:
                return call(*arguments)
            except ssl.SSLWantReadError:
                self._flush()
                if data := self._below.recv(65536):
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            finally:
                self._flush()


def echo_lines(s):
    """Sends back what it gets until the other side ends; `s`: a socket or a TlsEnd."""
    while data := s.recv(65536):
        s.sendall(data)


def receive_line(s):
    line = b""
    while not line.endswith(b"\n"):
        data = s.recv(1)
        assert data, f"the end, behind {line!r}"
        line += data
    return line


# --- the RPCs in few words ----------------------------------------------------------------------------------------------


def open_connection(stub, peer, **more):
    more.setdefault("host", peer.host)
    request = connections.OpenConnectionRequest(port=peer.port, **more)
    return stub.OpenConnection(request, timeout=PATIENCE).connection


def start_server(stub, **more):
    """A server on a free port of loopback, and the address it got."""
    request = servers.StartServerRequest(hosts=["127.0.0.1"], port=0, **more)
    server = stub.StartServer(request, timeout=PATIENCE).server
    return server, (server.sockets[0].tcp.host, server.sockets[0].tcp.port)


def accept(stub, server):
    return stub.Accept(servers.AcceptRequest(server=server.handle), timeout=PATIENCE).connection


def accept_later(stub, server):
    return stub.Accept.future(servers.AcceptRequest(server=server.handle), timeout=PATIENCE)


def start_tls(stub, connection, tls, timeout=PATIENCE, **more):
    return stub.StartTls(pb.StartTlsRequest(handle=connection.handle, tls=tls, **more), timeout=timeout)


def start_tls_later(stub, connection, tls, **more):
    return stub.StartTls.future(pb.StartTlsRequest(handle=connection.handle, tls=tls, **more), timeout=PATIENCE)


def write(stub, connection, data, **more):
    return stub.Write(io.WriteRequest(handle=connection.handle, data=data, **more), timeout=PATIENCE)


def read(stub, connection, n=65536, **more):
    return stub.Read(io.ReadRequest(handle=connection.handle, n=n, **more), timeout=PATIENCE)


def read_line(stub, connection, **more):
    return stub.ReadLine(io.ReadLineRequest(handle=connection.handle, **more), timeout=PATIENCE).data


def read_exactly(stub, connection, n, **more):
    return stub.ReadExactly(io.ReadExactlyRequest(handle=connection.handle, n=n, **more), timeout=PATIENCE).data


def read_all(stub, connection):
    data = b""
    while True:
        answer = read(stub, connection)
        data += answer.data
        if answer.eof:
            return data


def get(stub, connection):
    return stub.GetConnection(connections.GetConnectionRequest(handle=connection.handle), timeout=PATIENCE)


def close(stub, connection):
    stub.Close(connections.CloseRequest(handle=connection.handle), timeout=PATIENCE)


def wait_closed(stub, connection):
    request = connections.WaitClosedRequest(handle=connection.handle)
    return stub.WaitClosed(request, timeout=PATIENCE).connection


def extra_info(stub, connection, name):
    request = connections.GetExtraInfoRequest(handle=connection.handle, name=name)
    return stub.GetExtraInfo(request, timeout=PATIENCE)


def refused(call, *arguments, code=grpc.StatusCode.FAILED_PRECONDITION, **named):
    """The ErrorDetail of a call that must fail with `code`. A future has failed already, or will."""
    if isinstance(call, grpc.Future):
        error = call.exception(timeout=PATIENCE)
        assert error is not None, f"it succeeded: {call.result()}"
    else:
        with pytest.raises(grpc.RpcError) as caught:
            call(*arguments, **named)
        error = caught.value
    assert error.code() == code, f"{error.code()}: {error.details()}"
    return error_detail(error)


def plain_client(address):
    s = socket.create_connection(address, timeout=PATIENCE)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


@pytest.fixture
def accepted(stub):
    """accepted(): a plain connection to a server of the broker's: our socket, and the broker's end."""
    sockets = []

    def connect():
        server, address = start_server(stub)
        sockets.append(plain_client(address))
        return sockets[-1], accept(stub, server)

    yield connect
    for s in sockets:
        s.close()


def serve_upgrade(context, in_clear):
    """For python_peer: sends `in_clear`, then speaks TLS as a server, echoing."""

    def serve(s):
        s.sendall(in_clear)
        try:
            echo_lines(TlsEnd(s, context, server_side=True).handshake())
        except ssl.SSLError:
            pass

    return serve
