"""The compose file as the tests hold it in hand.

    with Stack("sockbroker-test-1") as stack:
        stack.run("client", "sockbroker", "ping")
        with stack.transfer() as transfer: ...
"""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import select
import shlex
import subprocess
import time

SOURCE_DIR = pathlib.Path(__file__).parents[2]
COMPOSE = shlex.split(os.environ.get("SOCKBROKER_COMPOSE", "docker-compose"))
OURS = ("-f", "docker-compose.yml", "-f", "tests/compose/compose.yml")

# How long anything that must happen may take on a busy machine. Nothing waits so long when all is well.
PATIENCE = 60.0


def wait_until(condition, what, timeout=PATIENCE):
    """Asks again and again until `condition()` gives something true, and returns that."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.02)


def docker(*arguments, check=True, timeout=4 * PATIENCE, **options):
    ended = subprocess.run(
        ["docker", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=timeout, **options
    )
    if check:
        assert ended.returncode == 0, f"docker {' '.join(map(str, arguments))}: {ended.returncode}\n{ended.stderr}"
    return ended


class Program:
    """A program in a container, its stdin and stdout in the test's hands; it ends when the test says so at the latest."""

    _serial = itertools.count()

    def __init__(self, stack, service, *command):
        self.stack, self.service = stack, service
        # Ending the `docker exec` in front of it would leave it running, so it leaves its number.
        self.pid_file = f"/tmp/program-{next(self._serial)}"
        self.process = subprocess.Popen(
            ["docker", "exec", "-i", stack.id(service), "sh", "-c", f'echo $$ >{self.pid_file}; exec "$@"', "sh",
             *map(str, command)],
            bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def read_some(self, size=1 << 16, pipe=None):
        """What there is, at least one byte; nothing at the end."""
        pipe = pipe or self.process.stdout
        assert select.select([pipe], [], [], PATIENCE)[0], f"nothing came in {PATIENCE} s"
        return os.read(pipe.fileno(), size)

    def read_line(self, pipe=None):
        line = b""
        while not line.endswith(b"\n"):
            byte = self.read_some(1, pipe)
            if not byte:
                break
            line += byte
        return line.decode()

    def write(self, data):
        self.process.stdin.write(data)

    def wait(self):
        """The exit status, and what was said on stderr."""
        self.process.stdin.close()
        status = self.process.wait(PATIENCE)
        return status, self.process.stderr.read().decode()

    def signal(self, name):
        docker("exec", self.stack.id(self.service), "sh", "-c", f"kill -{name} $(cat {self.pid_file})", check=False)

    def close(self):
        if self.process.poll() is None:
            # This side first: what it leaves unread would hold back the end of the kill (see Stack.answers).
            self.process.kill()
            self.process.wait()
            self.signal("KILL")
        for pipe in self.process.stdin, self.process.stdout, self.process.stderr:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Transfer(Program):
    """A download through the broker that the test reads as slowly as it likes: `sockbroker connect nginx 80` in a container.
    Between nginx and the test are only buffers, far smaller than the file, so what has not been read has not been sent."""

    def __init__(self, stack, service="client", path="/big"):
        super().__init__(stack, service, "sockbroker", "connect", "nginx", "80")
        self.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        self.sha256 = hashlib.sha256()
        self.missing = 0
        line = None
        while line != "\r\n":
            line = self.read_line()
            assert line, self.process.stderr.read().decode()
            if line.startswith("Content-Length: "):
                self.missing = int(line.split()[1])

    def read(self, size):
        """So many bytes more, less at the end."""
        while (size := min(size, self.missing)) > 0:
            data = self.read_some(min(size, 1 << 16))
            if not data:
                return
            self.sha256.update(data)
            self.missing -= len(data)
            size -= len(data)

    def finish(self):
        """Reads the rest; the exit status and what was said on stderr."""
        self.read(self.missing)
        return self.wait()


class Stack:
    """docker-compose.yml and what the tests add to it, up; gone at the end with its volumes."""

    def __init__(self, project, files=OURS):
        self.command = [*COMPOSE, "-p", project, *files]
        self._ids = {}

    def compose(self, *arguments, check=True):
        ended = subprocess.run(
            [*self.command, *arguments], cwd=SOURCE_DIR, capture_output=True, text=True, check=False, timeout=600
        )
        if check:
            assert ended.returncode == 0, f"{arguments}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    def __enter__(self):
        try:
            self.compose("up", "-d", "--no-build")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.compose("down", "-v", "-t", "1", "--remove-orphans", check=False)

    def id(self, service):
        """The container of a service, running or not."""
        if service not in self._ids:
            self._ids[service] = self.compose("ps", "-a", "-q", service).split()[0]
        return self._ids[service]

    def inspect(self, service):
        return json.loads(docker("inspect", self.id(service)).stdout)[0]

    def network(self, name):
        """The full name of a network of docker-compose.yml."""
        # Nobody takes these two off theirs.
        return next(iter(self.inspect({"back": "redis", "front": "visitor"}[name])["NetworkSettings"]["Networks"]))

    def address(self, service, network):
        return self.inspect(service)["NetworkSettings"]["Networks"][self.network(network)]["IPAddress"]

    # --- what runs in them ---

    def run(self, service, *command, check=True, **options):
        """A command in a container, to its end."""
        interactive = ["-i"] if "input" in options else []
        return docker("exec", *interactive, self.id(service), *command, check=check, **options)

    def root(self, service, *command):
        return docker("exec", "-u", "root", self.id(service), *command).stdout

    def python(self, service, source, *arguments, check=True):
        """A Python program in a container, with what compose/client/ask.py has: `ask.broker()`, `ask.Connection`."""
        prologue = "import sys; sys.path.insert(0, '/usr/local/bin'); import ask\n"
        return self.run(service, "python3", "-B", "-c", prologue + source, *arguments, check=check)

    # Asked from a container in which no test leaves output unread: while some of a command that has ended waits for its reader,
    # the engine tells the end of no other command in the same container.

    def answers(self, service="visitor", broker="broker"):
        """Whether a broker serves a client just now."""
        return self.run(service, "sockbroker", "-b", f"{broker}:7400", "ping", check=False).returncode == 0

    def await_broker(self, service="visitor", broker="broker"):
        wait_until(lambda: self.answers(service, broker), f"{broker} answers")

    def transfer(self, **options):
        return Transfer(self, **options)

    def make_file(self, megabytes, path="/big"):
        """Random bytes for nginx to serve; their SHA-256."""
        said = self.root(
            "nginx", "sh", "-c",
            f"head -c {megabytes}M /dev/urandom >/var/www/html{path} && chmod 644 /var/www/html{path} "
            f"&& sha256sum /var/www/html{path}",
        )  # fmt: skip
        return said.split()[0]

    # --- what happens to them ---

    def tools(self, service, *command, check=True):
        """A command of the tools' image in the network namespace of a container."""
        return docker(
            "run", "--rm", "--cap-add", "NET_ADMIN", "--network", f"container:{self.id(service)}", "sockbroker-test-tools",
            *command, check=check,
        )  # fmt: skip
