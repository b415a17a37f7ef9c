"""forward: iperf3 both ways through `sockbroker forward -L`, beside the same through `ssh -L`, and without either."""

import getpass
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

from harness import report, rounds
from harness.machine import Unfit

SUMMARY = "iperf3 both ways through `sockbroker forward -L`, `ssh -L`, and neither"

KEYS = ("rate", "cpu_us")
OURS = "sockbroker forward -L"
GRPC = "a bare gRPC stream"
BOUND = "1 / (1/direct + 1/gRPC + 1/direct)"
# iperf3's client sends, or with -R receives; the same of a gRPC stream alone.
CASES = {"client to server": ([], "up"), "server to client": (["-R"], "down")}
START_TIMEOUT = 20  # seconds


def add_options(parser):
    parser.add_argument("--cipher", metavar="NAME", help="ssh's cipher, beside its default (default aes128-gcm@openssh.com)",
                        default="aes128-gcm@openssh.com")
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="connections at a time (default 1)")


def run(options, machine, plan):
    machine.apart = False  # which program runs where is the kernel's choice
    turn = max(plan.turn(len(CASES) * 5), 1.0)  # iperf3 knows whole seconds only, and takes 0 for no end
    with Place(machine) as place:
        ways = {"direct": place.iperf_port, OURS: place.forward(), "ssh -L": place.ssh(None),
                f"ssh -L, {options.cipher.split('@')[0]}": place.ssh(options.cipher)}
        cases = []
        grpc = place.grpc()
        for name, (flags, word) in CASES.items():
            contestants = {way: mover(place, way, port, flags, options.parallel) for way, port in ways.items()}
            contestants[GRPC] = streamer(machine, grpc, word)
            cases.append({"direction": name, "contestants": compare(rounds.measure(contestants, plan, turn))})
    return {"parallel": options.parallel, "rounds": plan.rounds, "turn_seconds": turn, "cases": cases}


def mover(place, way, port, flags, parallel):
    def move(seconds):
        before = place.processor_time(way)
        command = [place.iperf, "-c", "127.0.0.1", "-p", str(port), "-t", str(max(round(seconds), 1)), "-J", "-P", str(parallel), *flags]
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            result = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=seconds + 60)
            said = json.loads(result.stdout)
            # The server has not seen the end of the turn before.
            if "busy" not in said.get("error", "") or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        if "error" in said:
            raise Unfit(f"iperf3 through {way}: {said['error']}")
        received = said["end"]["sum_received"]
        mib = received["bytes"] / 2**20
        return {"rate": mib / received["seconds"], "cpu_us": (place.processor_time(way) - before) * 1e6 / mib}

    return move


def streamer(machine, address, word):
    def move(seconds):
        command = [machine.program("bench_rpc_bulk"), word, address, f"{seconds:.2f}"]
        result = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=seconds + 60)
        return {"rate": json.loads(result.stdout)["rate"], "cpu_us": 0.0}

    return move


def compare(figures):
    # Of three ways in a row through the same processors.
    figures[BOUND] = [{"rate": 1 / (2 / direct["rate"] + 1 / grpc["rate"]), "cpu_us": 0.0}
                      for direct, grpc in zip(figures["direct"], figures[GRPC])]
    contestants = {}
    for name, theirs in figures.items():
        contestants[name] = {key: rounds.median(theirs, key) for key in KEYS}
        if name != OURS:
            contestants[name]["rate_ratio"] = rounds.ratio(figures[OURS], theirs, "rate")
            contestants[name]["cpu_ratio"] = rounds.ratio(figures[OURS], theirs, "cpu_us")
    return contestants


def table(result):
    parts = [f"{result['parallel']} connection(s) over loopback; {result['rounds']} rounds of turns of "
             f"{result['turn_seconds']:.2f} s; ours/it: rates above 1 and CPU below 1 mean that ours is better;\n"
             "CPU is that of both relaying programs together"]
    for case in result["cases"]:
        rows = [[case["direction"], "MiB/s", "CPU us/MiB", "rate: ours/it", "CPU: ours/it"]]
        for name, figures in case["contestants"].items():
            rows.append([name] + [report.number(figures[key]) for key in KEYS] +
                        [report.spread(figures.get("rate_ratio")), report.spread(figures.get("cpu_ratio"))])
        parts.append(report.columns(rows))
    return "\n\n".join(parts)


class Place:
    """iperf3's server, a broker with `forward`, and an sshd of its own with `ssh -L`, all ended with the `with` block."""

    def __init__(self, machine):
        self._machine = machine
        self._processes = []
        self._of = {"direct": []}  # way -> pids of those that relay
        self.iperf = _program("iperf3")
        self.iperf_port = None

    def __enter__(self):
        self._directory = pathlib.Path(tempfile.mkdtemp(prefix="sockbroker-bench-"))
        try:
            self.iperf_port = self._on_a_free_port(lambda port: [self.iperf, "-s", "-B", "127.0.0.1", "-p", port])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def through(self, address):
        """What a client says to reach that address."""
        return address

    def forward(self):
        address = f"unix:{self._directory}/broker.sock"
        build = self._machine.build_dir
        broker = self._start([build / "sockbrokerd", "--listen", address], stdout=subprocess.PIPE)
        broker.stdout.readline()
        client = self._start([build / "sockbroker", "-b", self.through(address), "forward", "--json", "-L", f"0:127.0.0.1:{self.iperf_port}"],
                             stderr=subprocess.PIPE)
        line = client.stderr.readline()
        if not line.startswith(b"{"):
            raise Unfit(f"sockbroker forward did not start: {line.decode()}")
        self._of[OURS] = [broker.pid, client.pid]
        return json.loads(line)["port"]

    def grpc(self):
        address = f"unix:{self._directory}/grpc.sock"
        self._start([self._machine.program("bench_rpc_bulk"), "serve", address], stdout=subprocess.PIPE).stdout.readline()
        return self.through(address)

    def ssh(self, cipher):
        sshd, client = self._directory / "sshd", self._directory / "client"
        if not sshd.exists():
            self._make_keys(sshd, client)
        name = "ssh -L" if cipher is None else f"ssh -L, {cipher.split('@')[0]}"
        options = [f"HostKey={sshd}", f"AuthorizedKeysFile={client}.pub", "StrictModes=no", "UsePAM=no", "PidFile=none",
                   "PasswordAuthentication=no", "KbdInteractiveAuthentication=no", "LogLevel=ERROR"]
        flags = [word for option in options for word in ("-o", option)]
        before = len(self._processes)
        sshd_port = self._on_a_free_port(
            lambda port: [_program("sshd"), "-D", "-e", "-f", "/dev/null", "-p", port, "-o", "ListenAddress=127.0.0.1", *flags])
        sshd_port = self.through(f"127.0.0.1:{sshd_port}").rsplit(":", 1)[1]
        ciphers = [] if cipher is None else ["-c", cipher]
        port = self._on_a_free_port(
            lambda port: [_program("ssh"), "-F", "none", "-N", *ciphers, "-i", client, "-p", sshd_port,
                          "-L", f"127.0.0.1:{port}:127.0.0.1:{self.iperf_port}"]
            + ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={self._directory}/known", "-o", "LogLevel=ERROR",
               "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes",
               f"{getpass.getuser()}@127.0.0.1"])
        self._of[name] = [process.pid for process in self._processes[before:]]
        return port

    def _make_keys(self, *paths):
        for path in paths:
            subprocess.run([_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        if os.geteuid() == 0:
            # Where a root's sshd locks its unprivileged part in; its service makes it.
            pathlib.Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)

    def _start(self, command, **options):
        self._processes.append(subprocess.Popen(
            list(map(str, command)), **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL,
                                        "stderr": subprocess.DEVNULL, **options}))
        return self._processes[-1]

    def _on_a_free_port(self, command):
        """Starts command(port) with new ports until one listens; gives the port."""
        for _ in range(5):
            port = _free_port()
            process = self._start(command(str(port)))
            deadline = time.monotonic() + START_TIMEOUT
            while process.poll() is None and time.monotonic() < deadline:
                if _listens(port):
                    return port
                time.sleep(0.02)
            process.kill()
        raise Unfit(f"{command('PORT')[0]} did not start")

    def processor_time(self, way):
        """Seconds that the relaying processes of this way, and those they have started, have had."""
        wanted, seconds = set(self._of[way]), 0.0
        if not wanted:
            return seconds
        processes = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    fields = pathlib.Path(f"/proc/{entry}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
                except OSError:
                    continue
                processes[int(entry)] = (int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
        for pid, (_, own) in processes.items():
            ancestor = pid
            while ancestor in processes and ancestor not in wanted:
                ancestor = processes[ancestor][0]
            if ancestor in wanted:
                seconds += own
        return seconds


def _program(name):
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise Unfit(f"{name} is not installed; ./dev deps installs it")
    return found


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _listens(port):
    """By the kernel's table: a connection to iperf3's server would count as a test that failed."""
    with open("/proc/net/tcp", encoding="utf-8") as lines:
        return any(fields[1].endswith(f":{port:04X}") and fields[3] == "0A" for fields in map(str.split, lines))
