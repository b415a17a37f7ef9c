#!/usr/bin/env python3
"""Three servers that this container can't reach, asked through the broker, with nothing but grpcio and the stubs that protoc
makes of proto/.

    ask.py [redis|nginx|postgres]...

A program's own asyncio code would read the same: open_connection, write, drain, readline, start_tls, close."""

import os
import struct
import sys

import grpc
from sockbroker.v1 import connection_pb2, io_pb2, sockbroker_pb2_grpc, tls_pb2

TIMEOUT = 20


def contents(variable):
    with open(os.environ[variable], "rb") as file:
        return file.read()


def broker():
    """The stub, over mutual TLS: the certificate says who we are."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=contents("SOCKBROKER_CACERT"),
        private_key=contents("SOCKBROKER_KEY"),
        certificate_chain=contents("SOCKBROKER_CERT"),
    )
    return sockbroker_pb2_grpc.SocketBrokerStub(grpc.secure_channel(os.environ["SOCKBROKER_ADDRESS"], credentials))


class Connection:
    """A socket of the broker's. A request_id makes a repeated open give the same one (see README for how to repeat)."""

    def __init__(self, stub, host, port):
        self.stub = stub
        request = connection_pb2.OpenConnectionRequest(request_id=os.urandom(16), host=host, port=port)
        self.handle = stub.OpenConnection(request, timeout=TIMEOUT).connection.handle

    def write(self, data):
        self.stub.Write(io_pb2.WriteRequest(handle=self.handle, data=data, drain=True), timeout=TIMEOUT)

    def readline(self):
        return self.stub.ReadLine(io_pb2.ReadLineRequest(handle=self.handle), timeout=TIMEOUT).data

    def readexactly(self, n, **at):
        request = io_pb2.ReadExactlyRequest(handle=self.handle, n=n, **at)
        return self.stub.ReadExactly(request, timeout=TIMEOUT).data if n else b""

    def read_to_the_end(self):
        data = b""
        while True:
            answer = self.stub.Read(io_pb2.ReadRequest(handle=self.handle, n=65536), timeout=TIMEOUT)
            data += answer.data
            if answer.eof:
                return data

    def start_tls(self, **options):
        request = tls_pb2.StartTlsRequest(handle=self.handle, request_id=os.urandom(16), **options)
        return self.stub.StartTls(request, timeout=TIMEOUT).tls

    def close(self):
        self.stub.Close(connection_pb2.CloseRequest(handle=self.handle), timeout=TIMEOUT)


def redis(stub):
    """A line there, a line back."""
    c = Connection(stub, "redis", 6379)
    c.write(b"INCR visits\r\n")
    answer = c.readline()
    c.close()
    return f"visit number {int(answer[1:])}"


def nginx(stub):
    """HTTP/1.0: to the end."""
    c = Connection(stub, "nginx", 80)
    c.write(b"GET / HTTP/1.0\r\n\r\n")
    head, _, body = c.read_to_the_end().partition(b"\r\n\r\n")
    c.close()
    return f"{head.split(b' ', 1)[1].splitlines()[0].decode()}: {body.decode().strip()}"


def postgres(stub, query="select 'PostgreSQL ' || current_setting('server_version') || ' over ' || version from pg_stat_ssl "
             "where pid = pg_backend_pid()", upgrade=True):  # fmt: skip
    """In clear up to the SSLRequest's answer, then TLS at exactly that byte: what STARTTLS is elsewhere."""
    c = Connection(stub, "postgres", 5432)
    if upgrade:
        c.write(struct.pack("!II", 8, 80877103))
        assert c.readexactly(1, offset=0) == b"S"
        options = tls_pb2.TlsOptions(ca_pem=contents("SOCKBROKER_CACERT"), server_hostname="postgres")
        c.start_tls(read_offset=1, tls=options)
    parameters = b"user\0postgres\0database\0postgres\0\0"
    c.write(struct.pack("!II", 8 + len(parameters), 3 << 16) + parameters)

    def until_ready():
        """The first column of each row, up to ReadyForQuery."""
        rows = []
        while True:
            kind, size = struct.unpack("!cI", c.readexactly(5))
            content = c.readexactly(size - 4)
            if kind == b"E":
                raise RuntimeError(content.replace(b"\0", b" ").decode())
            if kind == b"D":
                rows.append(content[6:].decode())
            if kind == b"Z":
                return rows

    until_ready()
    c.write(b"Q" + struct.pack("!I", 5 + len(query)) + query.encode() + b"\0")
    rows = until_ready()
    c.write(b"X\0\0\0\4")
    c.close()
    return rows[0]


def main():
    stub = broker()
    for name in sys.argv[1:] or ["redis", "nginx", "postgres"]:
        print(f"{name}: {globals()[name](stub)}", flush=True)


if __name__ == "__main__":
    main()
