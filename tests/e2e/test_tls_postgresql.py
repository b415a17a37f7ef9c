"""StartTls with PostgreSQL, behind its SSLRequest."""

import struct

from tls_kit import (
    certificates,  # noqa: F401
    open_connection,
    read_all,
    read_exactly,
    start_tls,
    write,
)
from tls_peers import VERSIONS, only, postgres  # noqa: F401


def postgres_message(stub, c):
    """Type and content of the next message."""
    kind, size = struct.unpack("!cI", read_exactly(stub, c, 5))
    content = read_exactly(stub, c, size - 4)
    assert kind != b"E", content
    return kind, content


@VERSIONS
def test_postgresql_is_upgraded_behind_its_ssl_request(stub, postgres, certificates, version):
    c = open_connection(stub, postgres)
    write(stub, c, bytes.fromhex("0000000804d2162f"))
    assert read_exactly(stub, c, 1, offset=0) == b"S"
    tls = certificates.client_options(server_hostname="localhost", **only(version))
    answer = start_tls(stub, c, tls, read_offset=1)
    assert answer.tls.version == f"TLSv{version}"
    assert (answer.read_offset, answer.write_offset) == (1, 8)
    parameters = b"user\0tester\0database\0postgres\0\0"
    write(stub, c, struct.pack("!II", 8 + len(parameters), 3 << 16) + parameters)
    while postgres_message(stub, c)[0] != b"Z":
        pass
    query = b"select version from pg_stat_ssl where pid = pg_backend_pid()\0"
    write(stub, c, b"Q" + struct.pack("!I", 4 + len(query)) + query)
    rows = []
    while (message := postgres_message(stub, c))[0] != b"Z":
        rows += [message[1]] if message[0] == b"D" else []
    text = f"TLSv{version}".encode()
    assert rows == [struct.pack("!HI", 1, len(text)) + text]
    write(stub, c, b"X\0\0\0\4")
    assert read_all(stub, c) == b""
