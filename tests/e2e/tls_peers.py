"""Programs that others wrote, as peers that speak TLS: fixtures that start them, for the tests of each.

    def test_speaks(stub, s_server, certificates):
        peer = s_server("-tls1_3")
        c = open_connection(stub, peer, tls=certificates.client_options())"""

import asyncio
import contextlib
import glob
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading

import pytest
from conftest import PATIENCE, _on_a_free_port, program, wait_until
from sockbroker.v1 import tls_pb2 as pb

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
