"""StartTls in SMTP: aiosmtpd as the server, smtplib as the client."""

import email.message
import smtplib
import threading

from conftest import PATIENCE
from tls_kit import (
    accept,
    certificates,  # noqa: F401
    close,
    get,
    open_connection,
    read_all,
    read_line,
    start_server,
    start_tls,
    write,
)
from tls_peers import smtp  # noqa: F401


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
