"""TLS with programs that others wrote: openssl, nginx, redis, PostgreSQL, an SMTP server, Python's ssl; as the client,
as the server, and as an upgrade."""

import asyncio
import contextlib
import email.message
import fcntl
import glob
import hashlib
import os
import pathlib
import re
import shutil
import signal
import smtplib
import socket
import ssl
import struct
import subprocess
import termios
import threading

import grpc
import pytest
from conftest import PATIENCE, _on_a_free_port, program, wait_until
from sockbroker.v1 import connection_pb2 as connections
from sockbroker.v1 import endpoint_pb2 as endpoints
from sockbroker.v1 import error_pb2 as errors
from sockbroker.v1 import io_pb2 as io
from sockbroker.v1 import server_pb2 as servers
from sockbroker.v1 import tls_pb2 as pb
from tls_kit import (
    accept,
    accept_later,
    certificates,  # noqa: F401
    close,
    echo_lines,
    extra_info,
    get,
    open_connection,
    plain_client,
    read_all,
    read_exactly,
    read_line,
    receive_line,
    start_server,
    start_tls,
    wait_closed,
    write,
)

VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])


def only(version):
    """TlsOptions' fields for that version alone."""
    number = {"1.2": pb.TLS_1_2, "1.3": pb.TLS_1_3}[version]
    return {"min_version": number, "max_version": number}


def openssl_flag(version):
    return "-tls" + version.replace(".", "_")


# --- openssl ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def s_server(directory, certificates):
    """s_server(*flags): an `openssl s_server` on a free port; a line that it gets comes back reversed."""
    processes = []

    def start(*flags, rev=True):
        command = [program("openssl"), "s_server", "-accept", "127.0.0.1:0", "-CAfile", certificates.root.certificate]
        command += ["-cert", certificates.good.certificate, "-key", certificates.good.key, *flags]
        command += ["-rev"] if rev else []
        log = directory / f"s_server{len(processes)}.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
            )
        process.log = log
        processes.append(process)
        ready = wait_until(lambda: re.search(r"ACCEPT 127\.0\.0\.1:(\d+)", log.read_text()), "s_server listens")
        process.host, process.port = "127.0.0.1", int(ready[1])
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdin.close()


@pytest.fixture
def s_client(certificates):
    """s_client(address, *flags): an `openssl s_client` that checks the certificate, with pipes."""
    processes = []

    def start(address, *flags):
        command = [program("openssl"), "s_client", "-connect", "%s:%d" % address, "-brief", "-verify_return_error"]
        command += ["-CAfile", certificates.root.certificate, "-verify_hostname", "localhost", *flags]
        process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        for pipe in process.stdin, process.stdout, process.stderr:
            with contextlib.suppress(OSError):
                pipe.close()


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


# --- nginx --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def nginx_tls(spawn, directory, certificates):
    """nginx over TLS; `peer.proxied_port` demands a PROXY header and answers what it said."""
    os.chmod(directory, 0o755)
    good = certificates.good

    def start(port):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            proxied = s.getsockname()[1]
        start.proxied = proxied
        (directory / "nginx.conf").write_text(
            f"""{"user root;" if os.geteuid() == 0 else ""} daemon off; worker_processes 1; pid {directory}/nginx.pid;
            error_log {directory}/nginx.log; events {{ worker_connections 64; }}
            http {{
              access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
              fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
              ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {good.certificate}; ssl_certificate_key {good.key};
              server {{ listen 127.0.0.1:{port} ssl; return 200 "over $ssl_protocol to $ssl_server_name\\n"; }}
              server {{ listen 127.0.0.1:{proxied} ssl proxy_protocol; return 200 "for $proxy_protocol_addr\\n"; }}
            }}"""
        )
        return spawn([program("nginx"), "-p", directory, "-c", directory / "nginx.conf", "-e", f"{directory}/nginx.log"])

    peer = _on_a_free_port(start)
    peer.proxied_port = start.proxied
    return peer


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


# --- redis --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def redis_tls(spawn, directory, certificates):
    """A redis that speaks TLS alone, and demands a certificate."""
    return _on_a_free_port(
        lambda port: spawn(
            [program("redis-server"), "--port", 0, "--tls-port", port, "--bind", "127.0.0.1", "--dir", directory]
            + ["--tls-cert-file", certificates.good.certificate, "--tls-key-file", certificates.good.key]
            + ["--tls-ca-cert-file", certificates.root.certificate, "--tls-auth-clients", "yes"]
            + ["--save", "", "--appendonly", "no", "--daemonize", "no"]
        )
    )


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


# --- PostgreSQL ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def postgres(directory, certificates):
    """A cluster of its own, with ssl=on, as a user who isn't root."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if not found:
        pytest.skip("postgresql is not installed")
    binaries = pathlib.Path(found[-1])
    user = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    shutil.copy(certificates.good.certificate, directory / "pg.crt")
    shutil.copy(certificates.good.key, directory / "pg.key")
    os.chmod(directory / "pg.key", 0o600)
    if user:
        for path in directory, directory / "pg.crt", directory / "pg.key":
            os.chown(path, 65534, 65534)
    subprocess.run(
        [binaries / "initdb", "-D", directory / "pg", "-U", "tester", "-A", "trust", "--no-sync", "--locale=C"],
        check=True, capture_output=True, timeout=4 * PATIENCE, cwd=directory, **user,
    )  # fmt: skip
    processes = []

    def start(port):
        command = [binaries / "postgres", "-D", directory / "pg", "-h", "127.0.0.1", "-p", port, "-k", directory]
        for setting in "ssl=on", f"ssl_cert_file={directory}/pg.crt", f"ssl_key_file={directory}/pg.key", "fsync=off":
            command += ["-c", setting]
        with open(directory / "pg.log", "wb") as log:
            processes.append(
                subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, cwd=directory, **user)
            )
        return processes[-1]

    peer = _on_a_free_port(start)
    wait_until(lambda: "ready to accept connections" in (directory / "pg.log").read_text(), "the cluster is up")
    yield peer
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # at once: SIGTERM would wait for its clients
            process.wait(PATIENCE)


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


# --- SMTP ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def smtp(certificates):
    """aiosmtpd on a thread, STARTTLS demanded; `received`: what was delivered."""
    aiosmtpd = pytest.importorskip("aiosmtpd.smtp")

    class Handler:
        received = []

        async def handle_DATA(self, server, session, envelope):  # noqa: N802
            self.received.append((bool(session.ssl), envelope.rcpt_tos, envelope.content))
            return "250 taken"

    handler, loop = Handler(), asyncio.new_event_loop()
    handler.received = []
    context = certificates.server_context()
    server = loop.run_until_complete(
        loop.create_server(
            lambda: aiosmtpd.SMTP(handler, tls_context=context, require_starttls=True, hostname="localhost", loop=loop),
            "127.0.0.1",
            0,
        )
    )
    handler.host, handler.port = server.sockets[0].getsockname()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield handler
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(PATIENCE)
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def smtp_reply(stub, c, **more):
    while True:
        line = read_line(stub, c, **more)
        if line[3:4] != b"-":
            return line


def test_an_smtp_server_is_upgraded_by_starttls(stub, smtp, certificates):
    c = open_connection(stub, smtp)
    assert smtp_reply(stub, c).startswith(b"220 ")
    write(stub, c, b"EHLO client\r\n")
    assert smtp_reply(stub, c).startswith(b"250 ")
    write(stub, c, b"STARTTLS\r\n")
    offset = get(stub, c).offsets.read_offset
    reply = read_line(stub, c, offset=offset)
    assert reply.startswith(b"220 ")
    offset += len(reply)
    answer = start_tls(stub, c, certificates.client_options(server_hostname="localhost"), read_offset=offset)
    assert answer.read_offset == offset
    for command, code in [
        (b"EHLO client\r\n", b"250 "),
        (b"MAIL FROM:<a@example.org>\r\n", b"250 "),
        (b"RCPT TO:<b@example.org>\r\n", b"250 "),
        (b"DATA\r\n", b"354 "),
        (b"Subject: over TLS\r\n\r\nhello\r\n.\r\n", b"250 "),
        (b"QUIT\r\n", b"221 "),
    ]:
        write(stub, c, command)
        assert smtp_reply(stub, c).startswith(code)
    assert read_all(stub, c) == b""
    assert smtp.received == [(True, ["b@example.org"], b"Subject: over TLS\r\n\r\nhello\r\n")]


def test_pythons_smtplib_is_upgraded_by_a_server_made_of_rpcs(stub, certificates):
    server, address = start_server(stub)
    mail = email.message.EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = "over TLS", "a@example.org", "b@example.org"
    mail.set_content("hello\n")
    failures = []

    def send():
        try:
            with smtplib.SMTP(*address, local_hostname="client", timeout=PATIENCE) as client:
                client._host = "localhost"
                client.starttls(context=certificates.client_context())
                client.send_message(mail)
        except Exception as failure:  # noqa: BLE001
            failures.append(failure)

    thread = threading.Thread(target=send)
    thread.start()
    c = accept(stub, server)
    write(stub, c, b"220 localhost ready\r\n")
    assert read_line(stub, c) == b"ehlo client\r\n"
    write(stub, c, b"250-localhost\r\n250 STARTTLS\r\n")
    offset = get(stub, c).offsets.read_offset
    assert read_line(stub, c, offset=offset) == b"STARTTLS\r\n"
    write(stub, c, b"220 go on\r\n")
    # Written just before, and in clear: the upgrade waits for it.
    answer = start_tls(stub, c, certificates.server_options(), read_offset=offset + 10)
    assert answer.tls.server_side  # it was accepted, so that is the default
    lines = []
    for reply in b"250 hello\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go on\r\n":
        lines.append(read_line(stub, c))
        write(stub, c, reply)
    assert lines[0] == b"ehlo client\r\n" and lines[-1] == b"data\r\n"
    while read_line(stub, c) != b".\r\n":
        pass
    write(stub, c, b"250 taken\r\n")
    assert read_line(stub, c) == b"QUIT\r\n"
    write(stub, c, b"221 bye\r\n")
    close(stub, c)
    thread.join(PATIENCE)
    assert not failures


# --- Python's ssl -------------------------------------------------------------------------------------------------------


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
