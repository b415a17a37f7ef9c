"""TLS with redis, which demands a certificate."""

import os

import grpc
import pytest
from tls_kit import (
    certificates,  # noqa: F401
    open_connection,
    read_exactly,
    read_line,
    write,
)
from tls_peers import redis_tls  # noqa: F401


def test_redis_answers_over_tls_to_whoever_shows_a_certificate(stub, redis_tls, certificates):
    c = open_connection(stub, redis_tls, tls=certificates.client_options(certificates.client))
    value = os.urandom(1 << 20)
    write(stub, c, b"PING\r\n")
    assert read_line(stub, c) == b"+PONG\r\n"
    write(stub, c, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % len(value))
    write(stub, c, value, drain=True)
    write(stub, c, b"\r\nGET k\r\n")
    assert read_line(stub, c) == b"+OK\r\n"
    assert read_line(stub, c) == b"$%d\r\n" % len(value)
    assert read_exactly(stub, c, len(value)) == value


def test_redis_says_no_to_who_shows_none(stub, redis_tls, certificates):
    # TLS 1.3: our handshake is done before the server has judged it.
    def talk():
        c = open_connection(stub, redis_tls, tls=certificates.client_options())
        read_line(stub, c)

    assert "certificate required" in refused_message(talk)


def refused_message(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    return caught.value.details()
