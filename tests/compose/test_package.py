"""The Debian packages on a bare Debian: in a container, where nothing may be started, and under systemd."""

import contextlib
import pathlib
import re

import pytest
from stack import SOURCE_DIR, docker, wait_until

PACKAGES = sorted(pathlib.Path(SOURCE_DIR, "build", "packages").glob("*.deb"))

# Everything there is but what dpkg, apt and adduser keep for themselves, and what is nobody's.
FILES = (
    "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /run/adduser -o -path /var/lib/dpkg"
    " -o -path /var/lib/apt -o -path /var/cache -o -path /var/log -o -path /run/systemd -o -name '*-' \\) -prune -o -print"
)


class Machine:
    """A container with the packages in /packages."""

    def __init__(self, image, *arguments, command=()):
        self.id = docker("run", "-d", *arguments, image, *command).stdout.strip()
        docker("cp", f"{SOURCE_DIR}/build/packages", f"{self.id}:/packages")

    def run(self, script, check=True):
        return docker("exec", "-e", "DEBIAN_FRONTEND=noninteractive", self.id, "sh", "-c", script, check=check)

    def install(self, *names):
        debs = " ".join(f"/packages/{deb.name}" for deb in PACKAGES if deb.name.partition("_")[0] in names)
        self.run("[ -e /var/lib/apt/lists/lock ] || apt-get -q update")
        return self.run(f"apt-get -q install -y --no-install-recommends {debs}")

    def close(self):
        docker("rm", "-fv", self.id)


@contextlib.contextmanager
def machine(*arguments, **options):
    running = Machine(*arguments, **options)
    try:
        yield running
    finally:
        running.close()


def test_they_install_run_and_leave_nothing_behind():
    with machine("debian:bookworm-slim", "--init", command=["sleep", "infinity"]) as bare:
        before = set(bare.run(FILES).stdout.splitlines())
        ended = bare.install("sockbroker", "sockbroker-dev")
        for trouble in "error", "Failed", "failed", "dpkg-statoverride: warning":
            assert trouble not in ended.stdout + ended.stderr.replace("debconf", ""), ended.stdout + ended.stderr
        # Root's own: nothing runs as a service here.
        assert bare.run("sockbrokerd >/tmp/broker.log 2>&1 & sockbroker ping --wait 60").stdout == "serving\n"
        assert "listening" in bare.run("cat /tmp/broker.log").stdout
        assert bare.run("getent passwd sockbroker").stdout.endswith(":/nonexistent:/usr/sbin/nologin\n")
        # As the service's user, with a socket that root may use, too.
        bare.run(
            "install -d -o sockbroker /run/s && "
            "setpriv --reuid sockbroker --clear-groups sockbrokerd -l unix:/run/s/b.sock >/dev/null 2>&1 & "
            "sockbroker -b unix:/run/s/b.sock ping --wait 60"
        )
        bare.run("for p in /proc/[0-9]*; do case $(readlink $p/exe) in */sockbrokerd) kill ${p#/proc/} ;; esac; done")
        wait_until(
            lambda: bare.run("ls -l /proc/*/exe 2>/dev/null | grep -q sockbrokerd", check=False).returncode != 0, "they end"
        )
        bare.run("rm -rf /run/s /run/sockbroker")
        bare.run("apt-get -q purge -y --autoremove sockbroker sockbroker-dev")
        after = set(bare.run(FILES).stdout.splitlines())
        assert after - before == set()
        assert before - after == set()


@pytest.fixture(scope="module")
def booted():
    with machine(
        "sockbroker-test-systemd", "--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined",
        "--security-opt", "apparmor=unconfined", "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp",
        "-v", "/sys/fs/cgroup:/sys/fs/cgroup:ro",
    ) as running:  # fmt: skip
        state = wait_until(
            lambda: (s := running.run("systemctl is-system-running", check=False).stdout.strip())
            not in ("", "offline", "initializing", "starting") and s, "systemd has booted",
        )  # fmt: skip
        if state != "running":
            failed = running.run("systemctl --failed --plain --no-legend", check=False).stdout
            pytest.skip(f"systemd does not run in a container here: {state}; {failed}")
        yield running


@pytest.fixture
def systemd(booted):
    """Without the package and what an administrator has written for it; its libraries stay where they are."""
    yield booted
    booted.run(
        "apt-get -q purge -y sockbroker; journalctl -q --rotate; "
        "rm -rf /etc/default/sockbrokerd /etc/sockbroker /run/systemd/system/sockbrokerd.service.d"
    )


def state(machine, unit):
    return machine.run(f"systemctl is-active {unit}", check=False).stdout.strip()


def test_systemd_opens_the_socket_and_the_first_caller_starts_the_broker(systemd):
    systemd.install("sockbroker")
    assert state(systemd, "sockbrokerd.socket") == "active"
    assert state(systemd, "sockbrokerd.service") == "inactive"
    # Root finds it where it looks by itself.
    assert systemd.run("sockbroker ping").stdout == "serving\n"
    assert state(systemd, "sockbrokerd.service") == "active"
    # All that hardening leaves it its work.
    refused = systemd.run("sockbroker connect 127.0.0.1 1", check=False)
    assert "Connection refused" in refused.stderr
    systemd.run("sockbroker listen 127.0.0.1 0 </dev/null >/tmp/got 2>/tmp/said & echo $! >/tmp/pid")
    wait_until(lambda: "Listening" in systemd.run("cat /tmp/said").stdout, "the broker listens")
    systemd.run("bash -c 'echo through systemd >/dev/tcp/127.0.0.1/$(sed s/.*\\ // /tmp/said)'")
    wait_until(lambda: systemd.run("cat /tmp/got").stdout == "through systemd\n", "the line has come through")
    # Nobody but root and the service's user.
    assert systemd.run("setpriv --reuid nobody --clear-groups sockbroker -b unix:/run/sockbroker/sockbroker.sock ping",
                       check=False).returncode == 3  # fmt: skip
    # A restart keeps the socket; nobody is refused.
    before = systemd.run("systemctl show -p MainPID --value sockbrokerd").stdout
    systemd.run("systemctl restart sockbrokerd && sockbroker ping")
    assert systemd.run("systemctl show -p MainPID --value sockbrokerd").stdout != before
    status = systemd.run("systemctl show -p StatusText --value sockbrokerd").stdout
    assert status == "listening on unix:/run/sockbroker/sockbroker.sock\n"
    assert systemd.run("journalctl -q -u sockbrokerd -p warning --no-pager").stdout == ""


def test_options_of_the_administrators_are_added(systemd):
    systemd.install("sockbroker")
    systemd.run("echo 'SOCKBROKERD_OPTIONS=\"--listen 127.0.0.1:7411 --insecure-loopback\"' >/etc/default/sockbrokerd")
    systemd.run("sockbroker ping && sockbroker -b 127.0.0.1:7411 ping")


def test_mutual_tls_as_the_readme_sets_it_up(systemd):
    """The block itself, with the broker's name standing for this machine."""
    systemd.install("sockbroker")
    systemd.run("apt-get -q install -y --no-install-recommends openssl && echo 127.0.0.1 broker.example.org >>/etc/hosts")
    readme = (SOURCE_DIR / "README.md").read_text()
    block = re.search(r"\*\*For other machines.*?```sh\n(.*?)```", readme, re.DOTALL)[1]
    said = docker("exec", "-i", "-w", "/tmp", systemd.id, "bash", "-eu", input=block).stdout
    assert said == "serving\n"
    # And without a certificate not.
    ended = systemd.run("sockbroker -b broker.example.org:7400 --broker-cacert /tmp/ca.crt ping", check=False)
    assert ended.returncode == 3


def test_an_upgrade_restarts_it_and_a_removal_stops_it(systemd):
    systemd.install("sockbroker")
    systemd.run("sockbroker ping")
    before = systemd.run("systemctl show -p MainPID --value sockbrokerd").stdout
    systemd.run("apt-get -q install -y --reinstall /packages/sockbroker_*.deb")
    assert systemd.run("sockbroker ping").stdout == "serving\n"
    assert systemd.run("systemctl show -p MainPID --value sockbrokerd").stdout != before
    systemd.run("apt-get -q remove -y sockbroker")
    for unit in "sockbrokerd.socket", "sockbrokerd.service":
        assert state(systemd, unit) in ("inactive", "unknown", "")
    assert systemd.run("ls -d /run/sockbroker", check=False).returncode != 0
    systemd.run("apt-get -q purge -y sockbroker")
    assert systemd.run("systemctl --failed --plain --no-legend").stdout == ""
    assert systemd.run("find /etc -name '*sockbroker*'").stdout == ""


# A peer that says its port, accepts and reads nothing; perl is in every Debian.
DEAF = (
    "perl -MIO::Socket::INET -le '$| = 1; $s = IO::Socket::INET->new(Listen => 1, LocalAddr => q(127.0.0.1)); "
    "print $s->sockport; $c = $s->accept; print q(accepted); sleep'"
)


def test_a_drain_that_is_longer_than_the_units_time_to_stop_is_waited_for(systemd):
    systemd.install("sockbroker")
    systemd.run(
        "echo SOCKBROKERD_OPTIONS=--drain-timeout=2s >/etc/default/sockbrokerd\n"
        "mkdir -p /run/systemd/system/sockbrokerd.service.d\n"
        "printf '[Service]\\nTimeoutStopSec=100ms\\n' >/run/systemd/system/sockbrokerd.service.d/short.conf\n"
        f"systemctl daemon-reload; {DEAF} >/tmp/deaf 2>&1 &"
    )
    wait_until(lambda: systemd.run("cat /tmp/deaf").stdout, "the peer listens")
    systemd.run("sockbroker connect 127.0.0.1 $(cat /tmp/deaf) </dev/zero >/tmp/sent 2>&1 &")
    wait_until(lambda: "accepted" in systemd.run("cat /tmp/deaf").stdout, "it is connected")
    buffered = "sockbroker ls --json | grep -E '\"write_buffered\":[1-9]'"
    wait_until(lambda: systemd.run(buffered, check=False).returncode == 0, "the kernel takes no more")
    systemd.run("systemctl stop sockbrokerd.socket sockbrokerd.service")
    assert systemd.run("systemctl show -p Result --value sockbrokerd").stdout == "success\n"
    assert "could not be flushed in time" in systemd.run("journalctl -q -u sockbrokerd --no-pager").stdout
