"""Fixtures: a broker of its own for each test, and the peers it talks to. Everything sits on free ports and in a fresh
directory, is ready when a test gets it, and is gone when the test ends.

    def test_reads_a_line(stub, echo_server):
        c = stub.OpenConnection(pb.OpenConnectionRequest(host=echo_server.host, port=echo_server.port)).connection

start_broker(...) starts further brokers, with any flags."""

import contextlib
import dataclasses
import os
import pathlib
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import pytest

SOURCE_DIR = pathlib.Path(os.environ.get("SOCKBROKER_SOURCE_DIR", pathlib.Path(__file__).parents[2])).resolve()
BUILD_DIR = pathlib.Path(os.environ.get("SOCKBROKER_BUILD_DIR", SOURCE_DIR / "build" / "release")).resolve()
if str(BUILD_DIR / "python") not in sys.path:
    sys.path.insert(0, str(BUILD_DIR / "python"))

import grpc  # noqa: E402
from sockbroker.v1 import sockbroker_pb2_grpc  # noqa: E402

SOCKBROKERD = BUILD_DIR / "sockbrokerd"
SOCKBROKER = BUILD_DIR / "sockbroker"

# Whether the programs are those of a sanitizer build: they take more of everything.
SANITIZED = bool(re.search(r"^SOCKBROKER_SANITIZE:\w+=.", (BUILD_DIR / "CMakeCache.txt").read_text(), re.MULTILINE))

# How long anything that must happen may take on a busy machine. Nothing waits so long when all is well.
PATIENCE = 30.0


def wait_until(condition, what, timeout=PATIENCE):
    """Asks again and again until `condition()` gives something true, and returns that."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.005)


def connect(address, timeout=PATIENCE):
    """A connected socket; address: a Unix path or (host, port)."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(timeout)
    try:
        s.connect(address)
    except OSError:
        s.close()
        raise
    return s


def wait_for_listener(process, address):
    """Until somebody accepts at `address`; fails when the process that should has ended."""

    def reachable():
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        try:
            connect(address).close()
            return True
        except OSError:
            return False

    wait_until(reachable, f"{process.args} listens at {address}")


def free_port():
    """A port nobody had a moment ago: for servers that can't choose one themselves."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def stop(process):
    """Ends a process that a test started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def directory():
    """A fresh directory with a short name: Unix paths have 107 bytes."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="sb-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(autouse=True)
def sanitizers(directory, monkeypatch):
    """Fails the test when a program of a sanitizer build reports something, also one whose status and log nobody looks
    at: the broker that a fixture ends, say, where leaks show."""
    for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS"):
        monkeypatch.setenv(name, ":".join(filter(None, [os.environ.get(name), f"log_path={directory}/finding"])))
    yield
    findings = [path.read_text(errors="replace") for path in sorted(directory.glob("finding.*"))]
    assert not findings, "\n".join(findings)


@pytest.fixture
def unprivileged(directory):
    """Popen's arguments for a process that isn't root's, and the test's directory made its own; nothing to do where the
    tests aren't root's either."""
    if os.geteuid() != 0:
        return {}
    somebody = {"user": 65534, "group": 65534, "extra_groups": []}
    try:
        subprocess.run([SOCKBROKERD, "--version"], check=True, stdout=subprocess.DEVNULL, cwd="/", **somebody)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"{SOCKBROKERD} can't be run by other users")
    os.chown(directory, 65534, 65534)
    return somebody


# --- the broker ---------------------------------------------------------------------------------------------------------


class Broker:
    """A running sockbrokerd."""

    def __init__(self, arguments, env=None, limit=None, pass_fds=None, log=None, **popen):
        self.log_path = log
        environment = dict(os.environ)
        environment.update(env or {})
        command = [str(SOCKBROKERD), *map(str, arguments)]
        if pass_fds:
            # As systemd does: numbered from 3, and LISTEN_PID names the process that is executed.
            names, fds = zip(*pass_fds)
            environment["LISTEN_FDS"] = str(len(fds))
            environment["LISTEN_FDNAMES"] = ":".join(names)
            program = (
                "import os, sys\n"
                "fds = [os.dup2(int(fd), 200 + i) for i, fd in enumerate(sys.argv[1].split(','))]\n"
                "for i, fd in enumerate(fds): os.dup2(fd, 3 + i, inheritable=True); os.close(fd)\n"
                "os.environ['LISTEN_PID'] = str(os.getpid())\n"
                "os.execv(sys.argv[2], sys.argv[2:])\n"
            )
            command = [sys.executable, "-c", program, ",".join(map(str, fds)), *command]
        else:
            fds = ()
        with open(log, "ab") as log_file:
            self.process = subprocess.Popen(
                command,
                bufsize=0,  # select() can't see what Python has read ahead
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log_file,
                env=environment,
                pass_fds=fds,
                preexec_fn=None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
                **popen,
            )
        self.addresses = []
        self._channels = []

    def wait_ready(self, listeners):
        """Reads one line per listener; they come all at once, flushed."""
        deadline = time.monotonic() + PATIENCE
        while len(self.addresses) < listeners:
            readable, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            line = self.process.stdout.readline().decode() if readable else ""
            match = re.fullmatch(r"sockbrokerd listening on (\S+)\n", line)
            if match is None:
                stop(self.process)
                raise AssertionError(f"not a ready line: {line!r}; status {self.process.returncode}; log:\n{self.log()}")
            self.addresses.append(match[1])
        return self

    @property
    def pid(self):
        return self.process.pid

    def channel(self, listener=0):
        """A connection of its own to that listener; closed with the broker."""
        channel = grpc.insecure_channel(
            self.addresses[listener],
            options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 16 << 20)],
        )
        self._channels.append(channel)
        return channel

    def stub(self, listener=0):
        return sockbroker_pb2_grpc.SocketBrokerStub(self.channel(listener))

    def log(self):
        return pathlib.Path(self.log_path).read_text(errors="replace")

    def descriptors(self):
        """How many descriptors the process has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self):
        """Resident memory, bytes."""
        match = re.search(r"VmRSS:\s+(\d+) kB", pathlib.Path(f"/proc/{self.pid}/status").read_text())
        return int(match[1]) * 1024

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self, timeout=PATIENCE):
        """The exit status; -N for a signal."""
        return self.process.wait(timeout)

    def close(self):
        for channel in self._channels:
            channel.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                # Nothing in a test needs to be flushed at its end: the second signal ends the drain.
                self.process.wait(0.5)
            except subprocess.TimeoutExpired:
                self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def start_broker(directory, request):
    """start_broker(*flags, env=..., limit=RLIMIT_NOFILE, pass_fds=[(name, fd), ...], ready=True, user=..., group=...):
    a Broker. Without --listen among the flags (and without env) it gets a Unix socket in the test's directory."""
    brokers = []

    def start(*flags, ready=True, **options):
        flags = list(map(str, flags))
        if not any(flag in ("-l",) or flag.startswith("--listen") for flag in flags) and "env" not in options:
            flags += ["--listen", f"unix:{directory}/broker{len(brokers)}.sock"]
        log = directory / f"broker{len(brokers)}.log"
        broker = Broker(flags, log=log, **options)
        brokers.append(broker)
        if ready:
            listeners = sum(flag == "-l" or flag.startswith("--listen") for flag in flags)
            broker.wait_ready(max(1, listeners))
        return broker

    yield start
    for broker in brokers:
        broker.close()
    if request.session.testsfailed:
        for broker in brokers:
            print(f"--- log of {broker.process.args}:\n{broker.log()}")


@pytest.fixture
def broker(start_broker, directory):
    """A broker on a Unix socket (listener 0) and on loopback (listener 1)."""
    return start_broker(
        "--listen", f"unix:{directory}/broker.sock", "--listen", "127.0.0.1:0", "--insecure-loopback"
    )


@pytest.fixture
def channel(broker):
    return broker.channel(0)


@pytest.fixture
def stub(broker):
    """As the owner, through the Unix socket."""
    return broker.stub(0)


@pytest.fixture
def loopback_stub(broker):
    """As anybody on this machine, through --insecure-loopback."""
    return broker.stub(1)


@pytest.fixture
def run_cli(broker):
    """run_cli(*arguments, input=b"", ...): the `sockbroker` program against the test's broker, to its end."""

    def run(*arguments, **options):
        options.setdefault("timeout", PATIENCE)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        if "stdin" not in options:
            options.setdefault("input", b"")
        environment = dict(os.environ, SOCKBROKER_ADDRESS=broker.addresses[0])
        return subprocess.run([str(SOCKBROKER), *map(str, arguments)], env=environment, check=False, **options)

    return run


@pytest.fixture
def start_cli(broker):
    """start_cli(*arguments, ...): the program, running; stdin, stdout and stderr are pipes unless said otherwise."""
    processes = []

    def start(*arguments, address=None, **options):
        for stream in ("stdin", "stdout", "stderr"):
            options.setdefault(stream, subprocess.PIPE)
        environment = dict(os.environ, SOCKBROKER_ADDRESS=address or broker.addresses[0])
        processes.append(subprocess.Popen([str(SOCKBROKER), *map(str, arguments)], env=environment, **options))
        return processes[-1]

    yield start
    for process in processes:
        # One that a test has stopped would not hear it.
        process.send_signal(signal.SIGCONT)
        stop(process)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class BreakableLink:
    """A TCP relay to the broker whose connections can be cut."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        self._pairs = []
        self._refusing = False
        self.relayed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._refusing:
                    client.close()
                    continue
                broker = socket.create_connection(self._target)
                self._pairs += [client, broker]
                for source, sink in ((client, broker), (broker, client)):
                    threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
                self.relayed += len(data)
        self._close(source, sink)

    @staticmethod
    def _close(*sockets):
        for s in sockets:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def refuse(self):
        """New connections are closed at once, until accept_again."""
        self._refusing = True

    def accept_again(self):
        self._refusing = False

    def cut(self):
        pairs, self._pairs = self._pairs, []
        self._close(*pairs)

    def close(self):
        self._close(self._listener)
        self._listener.close()
        self.cut()


# --- peers --------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Peer:
    """A server to connect to. What it does not have is None."""

    process: subprocess.Popen = None
    host: str = None
    port: int = None
    path: str = None


class PythonPeer:
    """A TCP (or, with a path, Unix) listener in the test itself, each connection served by `serve(socket)` on a thread
    of its own. The first exception of a connection is raised when it is closed."""

    def __init__(self, serve, path=None):
        self.path = path
        self._serve = serve
        self._failures = []
        self._sockets = []
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
            self.host, self.port = self._listener.getsockname()
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen(1024)
            self.host = self.port = None
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                s, _ = self._listener.accept()
                self._sockets.append(s)
                thread = threading.Thread(target=self._run, args=(s,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _run(self, s):
        try:
            with s:
                self._serve(s)
        except (ConnectionError, ValueError):
            pass  # the other side's end, or ours by close()
        except Exception as failure:  # noqa: BLE001
            self._failures.append(failure)

    def limit_receive_buffer(self, size):
        """Of the connections to come: what their clients send and nobody reads stays with the clients."""
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def close(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for s in list(self._sockets):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        if self._failures:
            raise self._failures[0]


@pytest.fixture
def python_peer():
    """python_peer(serve, path=None): see PythonPeer."""
    peers = []

    def start(serve, path=None):
        peers.append(PythonPeer(serve, path))
        return peers[-1]

    yield start
    for peer in peers:
        peer.close()


def _echo(s):
    while data := s.recv(65536):
        s.sendall(data)


@pytest.fixture
def echo_server(python_peer):
    """TCP: sends back what it gets, ends when the other side does."""
    return python_peer(_echo)


@pytest.fixture
def unix_echo_server(python_peer, directory):
    return python_peer(_echo, path=str(directory / "echo.sock"))


@pytest.fixture
def spawn():
    """spawn(command, **popen options): a process that is ended with the test."""
    processes = []

    def start(command, **options):
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.DEVNULL)
        options.setdefault("stderr", subprocess.DEVNULL)
        processes.append(subprocess.Popen(list(map(str, command)), **options))
        return processes[-1]

    yield start
    for process in processes:
        stop(process)


def program(name):
    """The path of a program that tests talk to; /usr/sbin is looked at too."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture
def socat_unix_echo(spawn, directory):
    """socat's Unix echo: one `cat` per connection."""
    path = str(directory / "socat.sock")
    process = spawn([program("socat"), f"UNIX-LISTEN:{path},fork", "EXEC:cat"])
    wait_for_listener(process, path)
    return Peer(process, path=path)


def _on_a_free_port(start):
    """Calls start(port) with new ports until the process it returns listens: another may have been quicker."""
    for attempt in range(5):
        port = free_port()
        process = start(port)
        try:
            wait_for_listener(process, ("127.0.0.1", port))
            return Peer(process, "127.0.0.1", port)
        except AssertionError:
            if attempt == 4:
                raise
    return None


@pytest.fixture
def redis_server(spawn, directory):
    """A real redis-server over TCP and a Unix socket, without persistence."""
    path = str(directory / "redis.sock")
    peer = _on_a_free_port(
        lambda port: spawn(
            [program("redis-server"), "--port", port, "--bind", "127.0.0.1", "--unixsocket", path]
            + ["--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", directory]
        )
    )
    peer.path = path
    wait_for_listener(peer.process, path)
    return peer


@pytest.fixture
def nginx(spawn, directory):
    """A real nginx over TCP and a Unix socket; serves `directory / "www"`, with an index.html."""
    root = directory / "www"
    root.mkdir()
    os.chmod(directory, 0o755)
    (root / "index.html").write_text("<h1>It works</h1>\n")
    path = str(directory / "nginx.sock")

    def start(port):
        configuration = directory / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        configuration.write_text(
            f"""{user} daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx.log;
            events {{ worker_connections 1024; }}
            http {{
              access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
              fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
              server {{ listen 127.0.0.1:{port}; listen unix:{path}; root {root}; }}
            }}"""
        )
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return spawn([program("nginx"), "-p", directory, "-c", configuration, "-e", f"{directory}/nginx.log"])

    peer = _on_a_free_port(start)
    peer.path = path
    wait_for_listener(peer.process, path)
    return peer


# --- errors -------------------------------------------------------------------------------------------------------------


def error_detail(error):
    """The ErrorDetail in a grpc.RpcError."""
    from google.rpc import status_pb2
    from sockbroker.v1 import error_pb2

    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            detail = error_pb2.ErrorDetail()
            assert status_pb2.Status.FromString(value).details[0].Unpack(detail)
            return detail
    return None
