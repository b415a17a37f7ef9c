"""What can happen to a container and its networks. Each is a context: it happens at the beginning and is over at the end.

    with Paused(stack, "broker"):
        assert not stack.answers()

`Nothing` is what the self-check puts in place of each, to see that the test then fails."""

import contextlib
import json
import re

from stack import docker


@contextlib.contextmanager
def Nothing(stack, *_, **__):
    """No fault at all: a test that is content with it proves nothing."""
    yield Degraded(stack, "broker", "eth0")


@contextlib.contextmanager
def Paused(stack, service):
    """Frozen: its sockets stay, it answers nothing."""
    docker("pause", stack.id(service))
    try:
        yield
    finally:
        docker("unpause", stack.id(service))


@contextlib.contextmanager
def Killed(stack, service):
    """SIGKILL, and started again at the end."""
    docker("kill", stack.id(service))
    try:
        yield
    finally:
        docker("start", stack.id(service))


@contextlib.contextmanager
def WorkersKilled(stack, service):
    """SIGKILL for nginx's worker, which has the connections; it is replaced at once. The container's own end would take its
    network along: nobody would be left to tell the peer."""
    stack.root(service, "sh", "-c", "kill -KILL $(cat /proc/$(cat /run/nginx.pid)/task/*/children)")
    yield


@contextlib.contextmanager
def Stopped(stack, service):
    """SIGTERM, and started again at the end."""
    docker("stop", "-t", "30", stack.id(service))
    try:
        yield
    finally:
        docker("start", stack.id(service))


@contextlib.contextmanager
def Cut(stack, service, network):
    """Off a network; it rejoins under its name, and perhaps with another address."""
    name = stack.network(network)
    docker("network", "disconnect", name, stack.id(service))
    try:
        yield
    finally:
        docker("network", "connect", "--alias", service, name, stack.id(service))


@contextlib.contextmanager
def Joined(stack, service, network):
    """On a network that it has no business on."""
    name = stack.network(network)
    docker("network", "connect", name, stack.id(service))
    try:
        yield
    finally:
        docker("network", "disconnect", name, stack.id(service))


class Degraded:
    """What the kernel says of a link that has been made bad."""

    def __init__(self, stack, service, device):
        self.stack, self.service, self.device = stack, service, device

    def shaping(self):
        """The queueing discipline: "netem", "tbf" or what it is without us."""
        said = self.stack.tools(self.service, "tc", "qdisc", "show", "dev", self.device).stdout
        return said.split()[1]

    def dropped(self):
        """Packets that were lost on purpose."""
        said = self.stack.tools(self.service, "tc", "-s", "qdisc", "show", "dev", self.device).stdout
        by_netem = sum(map(int, re.findall(r"qdisc netem.*?dropped (\d+)", said, re.DOTALL)))
        rules = self.stack.tools(self.service, "nft", "-j", "list", "table", "inet", "lossy", check=False).stdout
        by_nft = 0
        for entry in json.loads(rules or "{}").get("nftables", ()):
            for expression in entry.get("rule", {}).get("expr", ()):
                by_nft += expression.get("counter", {}).get("packets", 0)
        return by_netem + by_nft


def device_of(stack, service, network):
    """The container's name for its interface on a network."""
    address = stack.address(service, network)
    for line in stack.tools(service, "ip", "-o", "-4", "address").stdout.splitlines():
        if f" {address}/" in line:
            return line.split()[1]
    raise AssertionError(f"{service} has no interface with {address}")


@contextlib.contextmanager
def Slow(stack, service, network, mbit):
    """What the container sends on that network goes out at so many Mbit/s: by netem, with 20 ms of delay on top, or by a
    token bucket where the kernel has no netem."""
    device = device_of(stack, service, network)
    netem = ("tc", "qdisc", "add", "dev", device, "root", "netem", "delay", "20ms", "rate", f"{mbit}mbit", "limit", "2000")
    if stack.tools(service, *netem, check=False).returncode != 0:
        stack.tools(
            service, "tc", "qdisc", "add", "dev", device, "root", "tbf",
            "rate", f"{mbit}mbit", "burst", "32kb", "latency", "200ms",
        )  # fmt: skip
    try:
        yield Degraded(stack, service, device)
    finally:
        stack.tools(service, "tc", "qdisc", "del", "dev", device, "root")


@contextlib.contextmanager
def OneSegmentEach(stack, service, device):
    """New connections send every segment as a packet of its own. The kernel would hand 64 KiB of them over as one, and a
    transfer of so few packets may well lose none."""
    stack.tools(service, "ip", "link", "set", "dev", device, "gso_max_segs", "1")
    try:
        yield
    finally:
        stack.tools(service, "ip", "link", "set", "dev", device, "gso_max_segs", "65535")


@contextlib.contextmanager
def Lossy(stack, service, network, percent):
    """Of what comes and goes there, so many packets in a hundred are lost: what goes by netem, or both by a rule of the
    packet filter where the kernel has no netem."""
    device = device_of(stack, service, network)
    netem = ("tc", "qdisc", "add", "dev", device, "root", "netem", "loss", f"{percent}%")
    by_netem = stack.tools(service, *netem, check=False).returncode == 0
    if not by_netem:
        rule = f"numgen random mod 100 < {percent} counter drop"
        stack.tools(
            service, "nft",
            "add table inet lossy;"
            "add chain inet lossy in { type filter hook input priority 0; };"
            "add chain inet lossy out { type filter hook postrouting priority 0; };"
            f'add rule inet lossy in iifname "{device}" {rule};'
            f'add rule inet lossy out oifname "{device}" {rule};',
        )  # fmt: skip
    try:
        with OneSegmentEach(stack, service, device):
            yield Degraded(stack, service, device)
    finally:
        if by_netem:
            stack.tools(service, "tc", "qdisc", "del", "dev", device, "root")
        else:
            stack.tools(service, "nft", "delete", "table", "inet", "lossy")
