"""Server processes: started, asked where they listen, ended."""

import os
import pathlib
import select
import shutil
import subprocess
import tempfile

from harness.machine import Unfit

START_TIMEOUT = 20  # seconds


class Servers:
    """Servers that end when the `with` block does."""

    def __init__(self, machine, unix=False):
        self._machine = machine
        self._unix = unix
        self._started = []
        self._directory = None

    def __enter__(self):
        self._directory = tempfile.mkdtemp(prefix="sockbroker-bench-")
        return self

    def __exit__(self, *_):
        for server in self._started:
            server.process.kill()
            server.process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def path(self, name):
        return str(pathlib.Path(self._directory) / name)

    def start(self, *command, processors=None):
        """`command`, given the address to listen on: it says "... listening on ADDRESS" when it is ready."""
        address = f"unix:{self.path(str(len(self._started)))}" if self._unix else "tcp"
        return self.start_as_is(*command, address, processors=processors)

    def start_as_is(self, *command, processors=None):
        server = Server(command, processors or self._machine.server_processors)
        self._started.append(server)
        server.wait_until_ready()
        return server


class Server:
    def __init__(self, command, processors):
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                                        preexec_fn=lambda: os.sched_setaffinity(0, processors))
        self.command = command
        self.address = None

    @property
    def pid(self):
        return str(self.process.pid)

    def wait_until_ready(self):
        ready, _, _ = select.select([self.process.stdout], [], [], START_TIMEOUT)
        line = self.process.stdout.readline() if ready else ""
        if "listening on " not in line:
            raise Unfit(f"{' '.join(self.command)} did not start")
        self.address = line.split("listening on ", 1)[1].strip()
