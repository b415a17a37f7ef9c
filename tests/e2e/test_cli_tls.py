"""`sockbroker connect --tls`, `--starttls`, `listen --tls` and `info` as their users meet them, with real peers; where
none is at hand, a few lines of Python that say what one would."""

import json
import os
import re
import socket
import ssl
import struct
import subprocess
import threading

import pytest
from conftest import PATIENCE, SOCKBROKER, program, stop, wait_until
from sockbroker.v1 import connection_pb2
from tls_kit import (
    TlsEnd,
    certificates,  # noqa: F401
    echo_lines,
    receive_line,
)
from tls_peers import nginx_tls, openssl_flag, postgres, s_client, s_server, smtp  # noqa: F401

VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])


@pytest.fixture
def start_cli(broker):
    """start_cli(*arguments): the program, running, with pipes."""
    processes = []

    def start(*arguments):
        environment = dict(os.environ, SOCKBROKER_ADDRESS=broker.addresses[0])
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        processes.append(subprocess.Popen([str(SOCKBROKER), *map(str, arguments)], env=environment, **pipes))
        return processes[-1]

    yield start
    for process in processes:
        stop(process)
        for stream in process.stdin, process.stdout, process.stderr:
            stream.close()


@pytest.fixture
def start_listen(start_cli):
    """start_listen(*arguments): a `sockbroker listen --json --tls` on a free port, and that port."""

    def start(*arguments):
        process = start_cli("listen", "--json", "--tls", *arguments, "127.0.0.1", 0)
        said = process.stderr.readline()
        assert b'"listening"' in said, said
        return process, json.loads(said)["port"]

    return start


def trusting(certificates):
    return "--cacert", certificates.root.certificate


def identity(of):
    return "--cert", of.certificate, "--key", of.key


@pytest.fixture
def tls_echo(python_peer, certificates):
    """tls_echo(identity=None, **context): a peer that echoes over TLS."""

    def start(identity=None, **context):
        made = certificates.server_context(identity, **context)

        def serve(s):
            try:
                tls = made.wrap_socket(s, server_side=True)
            except ssl.SSLError:
                return
            echo_lines(tls)
            with tls:
                tls.unwrap()

        return python_peer(serve)

    return start


# --- connect --tls ------------------------------------------------------------------------------------------------------


def test_nginx_answers_over_https(run_cli, nginx_tls, certificates):
    request = b"GET / HTTP/1.1\nHost: localhost\nConnection: close\n\n"
    target = "localhost", nginx_tls.port
    result = run_cli("connect", "-Cv", "--tls", *trusting(certificates), "--alpn", "h3,http/1.1", *target, input=request)
    assert result.returncode == 0, result.stderr
    head, body = result.stdout.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n") and body.startswith(b"over TLSv1.")
    said = result.stderr.decode()
    assert re.search(
        r"TLSv1\.[23], \S+, ALPN http/1\.1; certificate of CN=good,O=sockbroker by CN=Root of the tests,O=sockbroker, "
        r"expires in \d+ hours",
        said,
    ), said


@VERSIONS
def test_openssls_server_is_talked_to_and_its_end_is_ours(start_cli, s_server, certificates, version):
    peer = s_server(openssl_flag(version))
    process = start_cli("connect", "--tls", *trusting(certificates), "localhost", peer.port)
    process.stdin.write(b"hello\nQ\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"olleh\n"
    assert process.stdout.readline() == b"Q\n"


@VERSIONS
def test_a_peer_that_ends_tls_ends_the_program_though_stdin_is_open(start_cli, python_peer, certificates, version):
    only = getattr(ssl.TLSVersion, "TLSv" + version.replace(".", "_"))
    context = certificates.server_context(version=only)

    def serve(s):
        with context.wrap_socket(s, server_side=True) as tls:
            tls.sendall(b"bye")
            tls.unwrap()

    peer = python_peer(serve)
    process = start_cli("connect", "--tls", *trusting(certificates), "localhost", peer.port)
    assert process.stdout.read(3) == b"bye"
    if version == "1.3":  # where our direction can go on, as with TCP
        process.stdin.close()
    assert process.wait(PATIENCE) == 0, process.stderr.read()


def test_with_n_the_end_of_stdin_is_the_end_of_our_direction_alone(run_cli, python_peer, certificates):
    context = certificates.server_context(version=ssl.TLSVersion.TLSv1_3)

    def serve(s):
        with context.wrap_socket(s, server_side=True) as tls:
            data = b""
            while piece := tls.recv(65536):
                data += piece
            tls.sendall(b"%d" % len(data))
            tls.unwrap()

    peer = python_peer(serve)
    result = run_cli("connect", "-N", "--tls", *trusting(certificates), "localhost", peer.port, input=b"z" * 100_000)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"100000", b"")


def test_a_client_certificate_is_shown(start_cli, s_server, certificates):
    peer = s_server("-tls1_3", "-Verify", "3", "-verify_return_error")
    target = "--tls", *trusting(certificates), "localhost", peer.port
    process = start_cli("connect", *identity(certificates.client), *target)
    process.stdin.write(b"me\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"em\n"
    assert "CN = client" in peer.log.read_text()


def test_who_shows_no_certificate_is_told_that_one_is_demanded(run_cli, s_server, certificates):
    peer = s_server("-tls1_3", "-Verify", "3", "-verify_return_error")
    result = run_cli("connect", "--tls", *trusting(certificates), "localhost", peer.port, input=b"me\n")
    assert result.returncode == 1
    assert b"certificate required; the peer demands a certificate: --cert FILE --key FILE" in result.stderr


@pytest.mark.parametrize(
    "of, said",
    [
        ("expired", b"certificate has expired"),
        ("wrong_host", b"hostname mismatch; --servername NAME says whom it is for"),
        ("self_signed", b"self-signed certificate; --cacert FILE trusts it"),
        ("foreign", b"unable to get local issuer certificate; --cacert FILE names who vouches for it"),
    ],
)
def test_a_certificate_that_is_not_accepted_is_named_with_what_to_do(run_cli, tls_echo, certificates, of, said):
    peer = tls_echo(getattr(certificates, of))
    target = "localhost", peer.port
    result = run_cli("connect", "--tls", *trusting(certificates), *target, input=b"x\n")
    assert result.returncode == 1
    assert result.stderr.lower().startswith(b"sockbroker: connect to localhost port %d failed: the cert" % peer.port)
    assert said.lower() in result.stderr.lower()
    assert b"-k goes without verification" in result.stderr
    # And so it does; what would have been wrong is still said.
    result = run_cli("connect", "-Nvk", "--tls", *trusting(certificates), *target, input=b"x\n")
    assert (result.returncode, result.stdout) == (0, b"x\n")
    assert of == "wrong_host" or b"not verified: " in result.stderr


def test_servername_is_asked_for_and_checked_in_place_of_the_host(run_cli, python_peer, certificates):
    asked = []
    context = certificates.server_context(certificates.wrong_host)
    context.sni_callback = lambda _, name, __: asked.append(name)

    def serve(s):
        with context.wrap_socket(s, server_side=True) as tls:
            tls.unwrap()

    peer = python_peer(serve)
    for name in "elsewhere.example", "":
        result = run_cli(
            "connect", "--tls", *trusting(certificates), "--servername", name, "127.0.0.1", peer.port
        )
        assert result.returncode == 0, result.stderr
    assert asked == ["elsewhere.example", None]


def test_a_unix_socket_speaks_tls_too(run_cli, python_peer, certificates, directory):
    context = certificates.server_context()
    path = str(directory / "peer.sock")
    python_peer(lambda s: echo_lines(context.wrap_socket(s, server_side=True)), path=path)
    result = run_cli("connect", "--tls", *trusting(certificates), "-U", path)
    assert (result.returncode, b"--servername NAME" in result.stderr) == (2, True)
    arguments = "-N", "--tls", *trusting(certificates), "--servername", "localhost", "-U", path
    assert run_cli("connect", *arguments, input=b"x").stdout == b"x"


def test_a_scan_with_tls_is_of_ports_that_speak_it(run_cli, tls_echo, echo_server, certificates):
    good = tls_echo()
    arguments = "connect", "-zv", "--tls", *trusting(certificates), "localhost"
    assert run_cli(*arguments, good.port).returncode == 0
    result = run_cli(*arguments, "-w", 5, echo_server.port)
    assert result.returncode == 1
    assert b"succeeded" not in result.stderr


def test_a_peer_that_speaks_no_tls_is_told_so(run_cli, python_peer):
    peer = python_peer(lambda s: s.sendall(b"220 mail.example ESMTP\r\n") or list(iter(lambda: s.recv(4096), b"")))
    result = run_cli("connect", "--tls", "localhost", peer.port)
    assert result.returncode == 1
    assert b"wrong version number; the peer speaks no TLS here: leave --tls out" in result.stderr


def test_w_bounds_the_handshake(run_cli, python_peer):
    over = threading.Event()
    peer = python_peer(lambda s: over.wait(PATIENCE))
    result = run_cli("connect", "-w", 0.3, "--tls", "localhost", peer.port)
    over.set()
    assert (result.returncode, b"timed out in the TLS handshake" in result.stderr) == (1, True)


def test_flags_that_make_no_sense_are_answered_with_those_that_do(run_cli, certificates):
    for arguments, said in [
        (["connect", "--cacert", "x", "h", "1"], b"--cacert needs --tls or --starttls"),
        (["connect", "-k", "h", "1"], b"--insecure needs --tls or --starttls"),
        (["connect", "--starttls", "stmp", "h", "1"], b"did you mean 'smtp'?"),
        (["connect", "--tls", "--cert", certificates.good.certificate, "h", "1"], b"--cert needs --key too"),
        (["connect", "-z", "--starttls", "smtp", "h", "1"], b"exclude each other"),
        (["listen", "--tls", "0"], b"--tls needs --cert FILE and --key FILE, or --cert store:NAME"),
        (["listen", "--client-ca", "x", "0"], b"--client-ca needs --tls"),
    ]:
        result = run_cli(*arguments)
        assert (result.returncode, said in result.stderr) == (2, True), result.stderr
    result = run_cli("listen", "--tls", "--cert", certificates.good.certificate, "--key", certificates.client.key, 0)
    assert result.returncode == 2 and b"is not the key of the certificate in" in result.stderr, result.stderr


# --- the broker's store ---------------------------------------------------------------------------------------------------


def test_certificates_of_the_brokers_store_are_named(start_broker, certificates, directory):
    store = directory / "store"
    store.mkdir()
    (store / "www.crt").write_bytes(certificates.good.certificate_pem)
    (store / "www.key").write_bytes(certificates.good.key_pem)
    (store / "root.ca").write_bytes(certificates.root.certificate_pem)
    broker = start_broker("--tls-store", store)
    environment = dict(os.environ, SOCKBROKER_ADDRESS=broker.addresses[0])
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, env=environment)
    listen = [SOCKBROKER, "listen", "-N", "--tls", "--cert", "store:www", "127.0.0.1", "0"]
    with subprocess.Popen(list(map(str, listen)), **pipes) as server:
        try:
            port = server.stderr.readline().split()[-1].decode()
            server.stdin.write(b"hello")
            server.stdin.close()
            connect = [SOCKBROKER, "connect", "-N", "--tls", "--cacert", "store:root", "localhost", port]
            pipes.pop("stdin")
            result = subprocess.run(list(map(str, connect)), input=b"hi", timeout=PATIENCE, check=False, **pipes)
            assert (result.returncode, result.stdout) == (0, b"hello"), result.stderr
            assert server.stdout.read() == b"hi"
        finally:
            stop(server)
        server.stdin = None


# --- listen --tls -------------------------------------------------------------------------------------------------------


@VERSIONS
def test_openssls_client_is_served_by_a_command_that_knows_of_tls(start_listen, s_client, certificates, version):
    _, port = start_listen(
        *identity(certificates.good), "--client-ca", certificates.root.certificate, "--alpn", "h2,echo", "-k",
        "--exec", 'read -r l; echo "$l $SOCKBROKER_TLS_VERSION $SOCKBROKER_TLS_SERVERNAME $SOCKBROKER_TLS_ALPN '
        '$SOCKBROKER_TLS_PEER"',
    )  # fmt: skip
    me = "-cert", certificates.client.certificate, "-key", certificates.client.key
    client = s_client(
        ("127.0.0.1", port), openssl_flag(version), "-servername", "localhost", "-alpn", "other,echo", *me
    )
    client.stdin.write(b"hello\n")
    line = f"hello TLSv{version} localhost echo CN=client,O=sockbroker\n"
    assert client.stdout.readline() == line.encode()
    # Who shows no certificate is not served.
    stranger = s_client(("127.0.0.1", port), openssl_flag(version))
    assert b"alert" in stranger.stderr.read().lower()


def test_curl_gets_a_page_from_stdin(start_listen, certificates):
    process, port = start_listen(*identity(certificates.good), "-N")
    process.stdin.write(b"HTTP/1.0 200 OK\r\n\r\nhello\n")
    process.stdin.close()
    curl = [program("curl"), "-sS", "--cacert", certificates.root.certificate, f"https://localhost:{port}/x"]
    got = subprocess.run(list(map(str, curl)), stdout=subprocess.PIPE, check=True, timeout=PATIENCE).stdout
    assert got == b"hello\n"
    assert process.stdout.read().startswith(b"GET /x HTTP/1.1\r\n")
    events = [json.loads(line) for line in process.stderr.read().splitlines()]
    assert [event["event"] for event in events] == ["received", "tls", "ended"]
    assert events[1]["tls"]["version"] == "TLSv1.3" and events[1]["tls"]["server_side"]
    assert process.wait(PATIENCE) == 0


def test_our_own_two_ends_move_a_file_and_end(start_listen, run_cli, certificates):
    process, port = start_listen(*identity(certificates.good))
    data = os.urandom(3 << 20)
    received = []
    reader = threading.Thread(target=lambda: received.append(process.stdout.read()))
    reader.start()
    process.stdin.close()
    result = run_cli("connect", "-N", "--tls", *trusting(certificates), "localhost", port, input=data)
    reader.join(PATIENCE)
    assert result.returncode == 0, result.stderr
    assert received == [data]
    assert process.wait(PATIENCE) == 0


# --- info ---------------------------------------------------------------------------------------------------------------


def fields(text):
    """`name   value` lines as a dictionary."""
    return {line[:12].strip(): line[13:] for line in text.decode().splitlines()}


def test_info_tells_of_tls_and_the_certificate_as_a_person_reads_it(start_cli, run_cli, stub, tls_echo, certificates):
    peer = tls_echo(alpn=["echo"])
    process = start_cli(
        "connect", "--tls", "--json", *trusting(certificates), "--alpn", "echo", "localhost", peer.port
    )  # fmt: skip
    connected, tls = (json.loads(process.stderr.readline()) for _ in range(2))
    assert (connected["event"], tls["event"]) == ("connected", "tls")
    told = fields(run_cli("info", connected["handle"]).stdout)
    pem = certificates.good.certificate_pem.decode()
    assert told["tls"] == "TLSv1.3"
    assert re.fullmatch(r"TLS_\w+ \((128|256) secret bits\)", told["cipher"])
    assert (told["alpn"], told["server name"], told["resumed"]) == ("echo", "localhost", "no")
    assert told["verified"] == "ok"
    assert told["certificate"] == "CN=good,O=sockbroker"
    assert told["issued by"] == "CN=Root of the tests,O=sockbroker"
    assert told["names"] == "DNS:localhost, IP:127.0.0.1"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d to \d{4}-\d\d-\d\d \(expires in 4\d hours\)", told["valid"])
    shown = [program("openssl"), "x509", "-noout", "-serial", "-fingerprint", "-sha256", "-in"]
    own = subprocess.run(
        [*shown, str(certificates.good.certificate)], stdout=subprocess.PIPE, check=True, timeout=PATIENCE
    ).stdout.decode()
    assert f"serial={told['serial']}\n" in own
    assert told["sha-256"] in own
    whole = json.loads(run_cli("info", "--json", connected["handle"]).stdout)["tls"]
    certificate = whole["peer_certificates"][0]
    assert ssl.DER_cert_to_PEM_cert(bytes.fromhex(certificate["der"])) == pem
    assert certificate["subject_alt_names"] == ["DNS:localhost", "IP:127.0.0.1"]
    assert certificate["not_after"].endswith("Z")
    assert tls["tls"]["peer_certificates"][0]["sha256_fingerprint"] == told["sha-256"]
    stop(process)


# --- connect --starttls ---------------------------------------------------------------------------------------------------


def test_a_mail_is_sent_behind_starttls(run_cli, smtp, certificates):
    session = (
        b"EHLO client\nMAIL FROM:<a@example.org>\nRCPT TO:<b@example.org>\nDATA\n"
        b"Subject: over TLS\n\nhello\n.\nQUIT\n"
    )
    arguments = "--starttls", "smtp", *trusting(certificates), "localhost", smtp.port
    result = run_cli("connect", "-C4v", *arguments, input=session)
    assert result.returncode == 0, result.stderr
    replies = re.findall(rb"^(\d{3}) ", result.stdout, re.MULTILINE)
    assert replies == [b"250", b"250", b"250", b"354", b"250", b"221"]
    assert smtp.received == [(True, ["b@example.org"], b"Subject: over TLS\r\n\r\nhello\r\n")]
    assert b"\nTLSv1.3, " in result.stderr


def test_postgresql_is_spoken_to_behind_its_ssl_request(run_cli, postgres, certificates):
    parameters = b"user\0tester\0database\0postgres\0\0"
    query = b"select version from pg_stat_ssl where pid = pg_backend_pid()\0"
    session = struct.pack("!II", 8 + len(parameters), 3 << 16) + parameters
    session += b"Q" + struct.pack("!I", 4 + len(query)) + query + b"X\0\0\0\4"
    arguments = "--starttls", "postgres", *trusting(certificates), "localhost", postgres.port
    result = run_cli("connect", "-4", *arguments, input=session)
    assert result.returncode == 0, result.stderr
    assert b"D\0\0\0\x11\0\1\0\0\0\x07TLSv1.3" in result.stdout


# What a server of each protocol says, and expects to hear in between; behind the last word TLS begins.
XMPP_TLS = b"urn:ietf:params:xml:ns:xmpp-tls"
MYSQL_GREETING = (
    b"\x0a8.0.36\0" + b"\x2a\0\0\0" + b"12345678\0" + b"\xff\xff\xff\x02\0\xff\xdf\x15" + bytes(10) + b"123456789012\0"
    b"mysql_native_password\0"
)
DIALOGUES = {
    "smtp": [
        b"220 fake ESMTP\r\n", rb"EHLO \[127\.0\.0\.1\]\r\n", b"250-fake\r\n250 STARTTLS\r\n", rb"STARTTLS\r\n",
        b"220 ready\r\n",
    ],
    "imap": [b"* OK fake\r\n", rb"(\w+) STARTTLS\r\n", b"s1 OK begin\r\n"],
    "pop3": [b"+OK fake\r\n", rb"STLS\r\n", b"+OK begin\r\n"],
    "ftp": [b"220 fake\r\n", rb"AUTH TLS\r\n", b"234 begin\r\n"],
    "postgres": [b"", re.escape(bytes.fromhex("0000000804d2162f")), b"S"],
    "mysql": [struct.pack("<I", len(MYSQL_GREETING)) + MYSQL_GREETING, rb"\x20\0\0\x01.{32}", b""],
    "ldap": [
        b"", re.escape(bytes.fromhex("301d02010177188016") + b"1.3.6.1.4.1.1466.20037"),
        bytes.fromhex("300c02010178070a010004000400"),
    ],
    "xmpp": [
        b"", rb"<\?xml version='1.0'\?><stream:stream .*to='localhost' version='1.0'>",
        b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
        b"from='localhost' version='1.0'><stream:features><starttls xmlns='" + XMPP_TLS + b"'/></stream:features>",
        rb"<starttls xmlns='" + XMPP_TLS + b"'/>", b"<proceed xmlns='" + XMPP_TLS + b"'/>",
    ],
}  # fmt: skip


def play(s, dialogue, glued=b""):
    """The server's part, with `glued` behind its last word. What was heard must match to the byte."""
    for i in range(0, len(dialogue), 2):
        s.sendall(dialogue[i] + (glued if i + 2 > len(dialogue) else b""))
        if i + 1 < len(dialogue):
            heard = b""
            while not re.fullmatch(dialogue[i + 1], heard, re.DOTALL):
                data = s.recv(1)
                assert data, heard
                heard += data


@pytest.mark.parametrize("protocol", DIALOGUES)
def test_each_protocol_comes_to_tls(run_cli, python_peer, certificates, protocol):
    context = certificates.server_context()

    def serve(s):
        play(s, DIALOGUES[protocol])
        tls = TlsEnd(s, context, server_side=True).handshake()
        tls.sendall(receive_line(tls)[::-1])
        tls.close_notify()

    peer = python_peer(serve)
    arguments = "--starttls", protocol, *trusting(certificates), "localhost", peer.port
    result = run_cli("connect", "-4v", *arguments, input=b"hello\n")
    assert (result.returncode, result.stdout) == (0, b"\nolleh"), result.stderr
    assert b"\nTLSv1.3, " in result.stderr


@pytest.mark.parametrize("protocol", [name for name in DIALOGUES if name != "mysql"])
def test_what_is_glued_behind_the_answer_is_never_read_as_protected(run_cli, python_peer, certificates, protocol):
    context = certificates.server_context()

    def serve(s):
        play(s, DIALOGUES[protocol], b"EVIL")
        try:
            echo_lines(TlsEnd(s, context, server_side=True).handshake())
        except ssl.SSLError:
            pass

    peer = python_peer(serve)
    arguments = "--starttls", protocol, *trusting(certificates), "localhost", peer.port
    result = run_cli("connect", "-4", *arguments, input=b"password\n")
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"TLS with localhost port %d failed: " % peer.port in result.stderr
    assert b"EVIL" not in result.stderr


def test_a_refusal_is_told_in_the_servers_words_and_nothing_is_sent(run_cli, python_peer):
    heard = []

    def serve(s):
        play(s, [*DIALOGUES["smtp"][:4], b"454 TLS not available\r\n"])
        heard.append(s.recv(1))

    peer = python_peer(serve)
    result = run_cli("connect", "--starttls", "smtp", "localhost", peer.port, "-4", input=b"password\n")
    assert result.returncode == 1
    refused = b"STARTTLS with localhost port %d failed: the server refused: 454 TLS not available\n" % peer.port
    assert result.stderr == b"sockbroker: " + refused
    wait_until(lambda: heard, "the end")
    assert heard == [b""]


def test_a_peer_that_ends_or_stalls_in_clear_is_told(run_cli, python_peer):
    peer = python_peer(lambda s: s.sendall(b"220 hello\r\n") or receive_line(s))
    result = run_cli("connect", "--starttls", "smtp", "localhost", peer.port)
    assert (result.returncode, b"failed: the peer ended the connection before TLS" in result.stderr) == (1, True)
    over = threading.Event()
    silent = python_peer(lambda s: over.wait(PATIENCE))
    result = run_cli("connect", "-w", 0.3, "--starttls", "smtp", "localhost", silent.port)
    over.set()
    assert (result.returncode, b"nothing more came for 300ms; a peer that begins with TLS" in result.stderr) == (1, True)


def test_a_failed_upgrade_leaves_no_connection(run_cli, stub, python_peer, certificates):
    context = certificates.server_context(certificates.expired)

    def serve(s):
        play(s, DIALOGUES["pop3"])
        try:
            TlsEnd(s, context, server_side=True).handshake()
        except ssl.SSLError:
            pass

    peer = python_peer(serve)
    result = run_cli("connect", "--starttls", "pop3", *trusting(certificates), "localhost", peer.port)
    assert (result.returncode, b"certificate has expired" in result.stderr) == (1, True)
    assert not stub.ListConnections(connection_pb2.ListConnectionsRequest()).connections
