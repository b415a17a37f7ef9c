"""`connect --detach` and `attach`: connections that outlive their clients, whatever these die of."""

import contextlib
import errno
import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import threading

import pytest

from conftest import PATIENCE, BreakableLink, wait_until
from sockbroker.v1 import connection_pb2

# A client that was killed is noticed by the broker in its own time.
WAIT = ("--wait", PATIENCE)


def ended(process):
    """Its exit status, once it has ended by itself."""
    return process.wait(PATIENCE)


def kill(process):
    assert process.poll() is None, "it was to be killed at work"
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def said(process, event):
    """The next event of that name on the stderr of a program with --json."""
    for line in process.stderr:
        told = json.loads(line)
        if told["event"] == event:
            return told
    raise AssertionError(f"it ended before {event}")


def digest(data):
    return hashlib.sha256(data).hexdigest()


def noise(size, seed):
    """As random as is needed to notice a byte that is missing or doubled."""
    return random.Random(seed).randbytes(1 << 20) * (size >> 20)


class ThrottledPeer:
    """What the peer of one connection sends and takes goes only as far as the test allows: so there is always more
    under way when something is killed."""

    def __init__(self, python_peer, data=b"", reply=None):
        """Sends `data`, then ends its direction; with `reply` instead, once it has got all, sends reply(all)."""
        self._data = memoryview(data)
        self._reply = reply
        self._change = threading.Condition()
        self._may_send = self._may_take = 0
        self.received = bytearray()
        self.saw_end = False
        self._listener = python_peer(self._serve)
        # So that it is the client that holds what the peer does not take.
        self._listener.limit_receive_buffer(1 << 16)
        self.target = (self._listener.host, self._listener.port)

    def allow(self, send=0, take=0):
        """Up to these offsets."""
        with self._change:
            self._may_send, self._may_take = max(send, self._may_send), max(take, self._may_take)
            self._change.notify_all()

    def allow_all(self):
        self.allow(1 << 40, 1 << 40)

    def wait_received(self, size):
        with self._change:
            assert self._change.wait_for(lambda: len(self.received) >= size, PATIENCE)

    def wait_end(self):
        with self._change:
            assert self._change.wait_for(lambda: self.saw_end, PATIENCE)

    def _serve(self, s):
        sender = None
        if self._reply is None:
            sender = threading.Thread(target=self._send, args=(s,))
            sender.start()
        while True:
            with self._change:
                self._change.wait_for(lambda: self._may_take > len(self.received))
                room = self._may_take - len(self.received)
            piece = s.recv(min(room, 1 << 18))
            with self._change:
                self.received += piece
                self.saw_end = not piece
                self._change.notify_all()
            if not piece:
                break
        if self._reply is not None:
            s.sendall(self._reply(bytes(self.received)))
        if sender is not None:
            sender.join()

    def _send(self, s):
        # A connection that is gone is the test's to notice.
        with contextlib.suppress(OSError):
            self._send_all(s)

    def _send_all(self, s):
        done = 0
        while done < len(self._data):
            with self._change:
                self._change.wait_for(lambda: self._may_send > done)
                piece = self._data[done : min(self._may_send, done + (1 << 18))]
            s.sendall(piece)
            done += len(piece)
        s.shutdown(socket.SHUT_WR)


@pytest.fixture
def throttled_peer(python_peer):
    """throttled_peer(...): a ThrottledPeer."""
    peers = []

    def start(**options):
        peers.append(ThrottledPeer(python_peer, **options))
        return peers[-1]

    yield start
    for peer in peers:
        peer.allow_all()


@pytest.fixture
def detached(run_cli):
    """detached(peer, *arguments): a handle of `connect --detach`."""

    def make(peer, *arguments):
        host, port = getattr(peer, "target", None) or (peer.host, peer.port)
        result = run_cli("connect", "--detach", *arguments, host, port)
        assert result.returncode == 0, result.stderr
        return result.stdout.decode().strip()

    return make


def file_size(path):
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


# --- detached, and attached to ------------------------------------------------------------------------------------------


def test_a_detached_connection_is_taken_up_by_another_process(run_cli, detached, echo_server):
    handle = detached(echo_server)
    assert run_cli("ls", "-q").stdout.decode().split() == [handle]
    result = run_cli("attach", "-N", handle[:10], input=b"hello")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"hello", b"")
    assert run_cli("ls", "-q").stdout == b""


def test_detach_speaks_json_and_takes_a_lease(run_cli, echo_server):
    result = run_cli("connect", "--detach", "--json", "--lease", 90, echo_server.host, echo_server.port)
    told = json.loads(result.stdout)
    assert (told["state"], told["options"]["lease"]) == ("open", 90)
    result = run_cli("connect", "--detach", "--lease", 0.001, echo_server.host, echo_server.port)
    assert result.returncode == 1
    assert b"lease" in result.stderr


def test_a_detached_connection_ends_with_its_lease(run_cli, detached, python_peer):
    ended_ = threading.Event()
    handle = detached(python_peer(lambda s: (s.recv(1), ended_.set())), "--lease", 1)
    assert ended_.wait(PATIENCE)
    result = run_cli("attach", handle)
    assert result.returncode == 1
    assert b"its lease ran out" in result.stderr


def test_attach_can_leave_the_connection_open_again(run_cli, detached, echo_server):
    handle = detached(echo_server)
    for word in (b"one ", b"two "):
        # Nothing is said to the peer at the end of stdin: the connection goes on.
        result = run_cli("attach", "--detach", "-w", 0.5, handle, input=word)
        assert (result.returncode, result.stdout) == (0, word)
        assert b"goes on" in result.stderr
    result = run_cli("attach", "-N", handle, input=b"three")
    assert (result.returncode, result.stdout) == (0, b"three")


def test_ctrl_c_leaves_an_attached_connection_as_it_found_it(start_cli, run_cli, detached, echo_server):
    handle = detached(echo_server)
    process = start_cli("attach", "--json", handle)
    said(process, "attached")
    process.stdin.write(b"first ")
    process.stdin.flush()
    assert process.stdout.read(6) == b"first "
    process.send_signal(signal.SIGINT)
    assert ended(process) == 130
    assert said(process, "left")["read_offset"] == 6
    result = run_cli("attach", "-N", handle, input=b"second")
    assert (result.returncode, result.stdout) == (0, b"second")


def test_a_killed_connect_leaves_its_connection_to_attach(start_cli, run_cli, echo_server, directory):
    out = directory / "out"
    with open(out, "wb") as f:
        process = start_cli("connect", "--json", echo_server.host, echo_server.port, stdout=f)
    handle = said(process, "connected")["handle"]
    process.stdin.write(b"before ")
    process.stdin.flush()
    wait_until(lambda: file_size(out) == 7, "it was written")
    kill(process)
    result = run_cli("attach", *WAIT, handle, "-N", "-o", out, "--continue", input=b"after")
    assert (result.returncode, result.stderr) == (0, b"")
    assert out.read_bytes() == b"before after"


def test_a_full_disk_leaves_what_it_could_not_hold_with_the_broker(run_cli, detached, python_peer, directory):
    handle = detached(python_peer(lambda s: (s.sendall(b"x" * 1000), s.shutdown(socket.SHUT_WR), s.recv(1))))
    result = run_cli("attach", handle, "-o", "/dev/full")
    assert result.returncode == 1
    assert os.strerror(errno.ENOSPC) in result.stderr.decode()
    out = directory / "out"
    assert run_cli("attach", handle, "-o", out, "--continue").returncode == 0
    assert out.read_bytes() == b"x" * 1000


# --- offsets ------------------------------------------------------------------------------------------------------------


def test_continue_finds_files_that_begin_elsewhere_by_their_base(run_cli, detached, throttled_peer, directory):
    data = bytes(range(256)) * 40
    peer = throttled_peer(data=data)
    peer.allow_all()
    handle = detached(peer)
    head, tail = directory / "head", directory / "tail"
    result = run_cli("attach", "--detach", "-w", 0.5, handle, "-o", head)
    assert (result.returncode, head.read_bytes()) == (0, data)
    # All was taken: a file that begins behind it is empty, and one that begins before lacks something.
    tail.write_bytes(b"")
    result = run_cli("attach", "--detach", handle, "-o", tail, "--continue", "--base", len(data))
    assert (result.returncode, tail.read_bytes()) == (0, b""), result.stderr
    result = run_cli("attach", handle, "-o", tail, "--continue", "--base", 5000)
    assert result.returncode == 1
    assert f"{len(data) - 5000} bytes are missing" in result.stderr.decode()
    assert f"the broker holds bytes {len(data)} to {len(data)}" in result.stderr.decode()


def test_a_file_that_is_longer_than_what_was_received_is_not_this_connections(run_cli, detached, throttled_peer, directory):
    peer = throttled_peer(data=b"z" * 100)
    peer.allow_all()
    handle = detached(peer)
    out = directory / "out"
    out.write_bytes(b"y" * 5000)
    result = run_cli("attach", handle, "-o", out, "--continue")
    assert result.returncode == 1
    assert b"has 5000 bytes" in result.stderr and b"it is not this connection's" in result.stderr
    assert out.read_bytes() == b"y" * 5000
    # Without --continue it is overwritten, but not before there is something to write.
    assert run_cli("attach", "abcdef", "-o", out).returncode == 1
    assert out.stat().st_size == 5000
    assert run_cli("attach", handle, "-o", out).returncode == 0
    assert out.read_bytes() == b"z" * 100


def test_from_reads_at_an_offset_and_names_the_range_outside_of_it(run_cli, detached, stub, throttled_peer):
    peer = throttled_peer(data=b"0123456789")
    peer.allow_all()
    handle = detached(peer)
    wait_until(
        lambda: json.loads(run_cli("info", "--json", handle).stdout)["offsets"]["received"] == 10, "all has come"
    )
    result = run_cli("attach", handle, "--from", 11)
    assert result.returncode == 1
    assert b"byte 11 can't be read from: the broker holds bytes 0 to 10" in result.stderr
    result = run_cli("attach", "--detach", handle, "--from", 4)
    assert (result.returncode, result.stdout) == (0, b"456789")


def test_an_input_that_is_not_what_was_sent_is_refused_and_harms_nothing(run_cli, detached, echo_server, directory):
    handle = detached(echo_server)
    assert run_cli("attach", "--detach", "-w", 0.5, handle, input=b"0123456789").returncode == 0
    short, whole = directory / "short", directory / "whole"
    short.write_bytes(b"01234")
    whole.write_bytes(b"0123456789abc")
    result = run_cli("attach", handle, "-i", short, "--continue")
    assert result.returncode == 1
    assert b"has 5 bytes, from byte 0 of the connection on, but 10 were sent" in result.stderr
    result = run_cli("attach", handle, "-i", whole, "--continue")
    assert (result.returncode, result.stdout) == (0, b"abc")


def test_an_input_that_was_sent_to_its_end_needs_no_second_end(start_cli, run_cli, detached, throttled_peer, directory):
    peer = throttled_peer(reply=lambda data: b"%d" % len(data))
    handle = detached(peer)
    upload = directory / "upload"
    upload.write_bytes(b"u" * 1000)
    process = start_cli("attach", "--json", handle, "-i", upload)
    wait_until(lambda: json.loads(run_cli("info", "--json", handle).stdout)["write_eof"], "the end was sent")
    kill(process)
    peer.allow_all()
    result = run_cli("attach", *WAIT, handle, "-i", upload, "--continue")
    assert (result.returncode, result.stdout) == (0, b"1000")
    # What is closed in good order, with nothing missing, needs no client any more.
    assert run_cli("attach", handle, "-i", upload, "--continue").returncode == 0
    assert run_cli("attach", handle).returncode == 1


def test_options_that_make_no_sense_together_are_status_2(run_cli):
    for words in (
        ["--continue"],
        ["--from", 1, "-o", "file", "--continue"],
        ["--base", 1, "-o", "file"],
        ["--input-base", 1, "--continue", "-o", "file"],
        ["-C", "-i", "/dev/null", "--continue"],
    ):
        result = run_cli("attach", "abcd", *words)
        assert (result.returncode, result.stderr.count(b"\n")) == (2, 1), words


# --- killed again and again ---------------------------------------------------------------------------------------------


SIZE = 64 << 20


class Steps:
    """Where in a transfer of SIZE bytes its client is to be killed so many times: each time a random way on from where
    it stands, so that the last time there is still something left."""

    def __init__(self, seed, kills):
        self._generator = random.Random(seed)
        self._left = kills

    def next(self, stands):
        """The offset to wait for, and up to where the peer may go meanwhile: so there is more under way by then."""
        longest = max(2, (SIZE - stands) // (self._left + 1))
        self._left -= 1
        point = min(stands + self._generator.randrange(1, longest), SIZE - 1)
        return point, min(point + self._generator.randrange(longest), SIZE - 1)


def written(stub, handle):
    """How far what clients write has come to the broker."""
    return stub.GetConnection(connection_pb2.GetConnectionRequest(handle=bytes.fromhex(handle))).offsets.write_offset


def test_a_download_whose_client_is_killed_70_times_is_whole(start_cli, detached, throttled_peer, directory):
    data = noise(SIZE, 1)
    peer = throttled_peer(data=data)
    handle = detached(peer)
    out = directory / "out"
    attach = ["attach", *WAIT, handle, "-o", out, "--continue"]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": None}
    steps = Steps(seed=1, kills=70)
    for _ in range(70):
        point, allowed = steps.next(file_size(out))
        process = start_cli(*attach, **quiet)
        peer.allow(send=allowed)
        wait_until(lambda: file_size(out) >= point, "so much has come")
        kill(process)
    peer.allow_all()
    assert ended(start_cli(*attach, **quiet)) == 0
    assert digest(out.read_bytes()) == digest(data)
    peer.wait_end()


def test_an_upload_whose_client_is_killed_70_times_is_whole(start_cli, detached, stub, throttled_peer, directory):
    data = noise(SIZE, 2)
    upload = directory / "upload"
    upload.write_bytes(data)
    peer = throttled_peer(reply=lambda received: digest(received).encode())
    handle = detached(peer)
    attach = ["attach", *WAIT, handle, "-i", upload, "--continue"]
    steps = Steps(seed=2, kills=70)
    for _ in range(70):
        point, allowed = steps.next(written(stub, handle))
        process = start_cli(*attach, stdout=subprocess.DEVNULL, stderr=None)
        peer.allow(take=allowed)
        wait_until(lambda: written(stub, handle) >= point, "so much has gone")
        kill(process)
    peer.allow_all()
    process = start_cli(*attach, stderr=None)
    assert process.stdout.read().decode() == digest(data)
    assert ended(process) == 0


def test_both_directions_of_a_client_that_is_killed_60_times_are_whole(
    start_cli, detached, stub, throttled_peer, directory
):
    down, up = noise(SIZE, 3), noise(SIZE, 4)
    upload, out = directory / "upload", directory / "out"
    upload.write_bytes(up)
    peer = throttled_peer(data=down)
    handle = detached(peer)
    attach = ["attach", *WAIT, handle, "-i", upload, "-o", out, "--continue"]
    downwards, upwards = Steps(seed=3, kills=60), Steps(seed=4, kills=60)
    for i in range(60):
        down_point, may_send = downwards.next(file_size(out))
        up_point, may_take = upwards.next(written(stub, handle))
        process = start_cli(*attach, stderr=None)
        peer.allow(send=may_send, take=may_take)
        # Whichever of the two it is, the other is anywhere.
        if i % 2:
            wait_until(lambda: file_size(out) >= down_point, "so much has come")
        else:
            wait_until(lambda: written(stub, handle) >= up_point, "so much has gone")
        kill(process)
    peer.allow_all()
    assert ended(start_cli(*attach, stderr=None)) == 0
    assert digest(out.read_bytes()) == digest(down)
    peer.wait_end()
    assert digest(bytes(peer.received)) == digest(up)


# --- whose it is --------------------------------------------------------------------------------------------------------


def test_a_connection_that_another_client_has_is_had_by_steal_alone(start_cli, run_cli, detached, echo_server):
    handle = detached(echo_server)
    first = start_cli("attach", "--json", handle)
    said(first, "attached")
    result = run_cli("attach", "--wait", 0, handle)
    assert result.returncode == 1
    assert b"another client has it; --steal takes it over" in result.stderr
    result = run_cli("attach", "-N", "--steal", handle, input=b"mine")
    assert (result.returncode, result.stdout) == (0, b"mine")
    assert ended(first) == 4
    assert b"another client has taken the connection" in first.stderr.read()


def stopped(process):
    """Stops it, and waits until it is."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)


def test_what_a_fenced_client_had_still_to_send_never_reaches_the_peer(start_cli, detached, throttled_peer, directory):
    generator = random.Random(5)
    peer = throttled_peer(reply=lambda data: b"")
    handle = detached(peer)
    rounds = 12
    begins, fenced = [], []
    for i in range(rounds):
        # More than what is ever under way, a window of 16 MiB and the kernel's buffers, however late it is stopped: it
        # always has something to send.
        upload = directory / f"upload{i % 2}"
        upload.write_bytes(bytes([i]) * (32 << 20))
        process = start_cli("attach", "--json", "--steal", handle, "-i", upload)
        begins.append(said(process, "attached")["write_offset"])
        # The one before wakes up, and would go on.
        if fenced:
            fenced[-1].send_signal(signal.SIGCONT)
            assert ended(fenced[-1]) == 4, fenced[-1].stderr.read()
        peer.allow(take=begins[-1] + generator.randrange(1 << 20))
        peer.wait_received(begins[-1] + 1)
        stopped(process)
        fenced.append(process)
    last = start_cli("attach", "--json", "--steal", "-N", handle)
    begins.append(said(last, "attached")["write_offset"])
    fenced[-1].send_signal(signal.SIGCONT)
    assert ended(fenced[-1]) == 4
    last.stdin.write(b"the end")
    last.stdin.close()
    peer.allow_all()
    assert ended(last) == 0
    peer.wait_end()
    expected = b"".join(bytes([i]) * (begins[i + 1] - begins[i]) for i in range(rounds)) + b"the end"
    assert digest(bytes(peer.received)) == digest(expected)


def test_what_two_clients_of_one_file_write_is_one_file(start_cli, detached, throttled_peer, directory):
    generator = random.Random(6)
    data = noise(8 << 20, 6)
    peer = throttled_peer(data=data)
    handle = detached(peer)
    out = directory / "out"
    attach = ["attach", handle, "--steal", "-o", out, "--continue"]
    before = None
    for _ in range(10):
        point = file_size(out) + generator.randrange(1, 1 << 19)
        process = start_cli(*attach, stdin=subprocess.DEVNULL, stderr=None)
        peer.allow(send=point + generator.randrange(1 << 20))
        wait_until(lambda: file_size(out) >= point, "so much has come")
        stopped(process)
        if before is not None:
            before.send_signal(signal.SIGCONT)
            assert ended(before) == 4
        before = process
    peer.allow_all()
    last = start_cli(*attach, "--json", stdin=subprocess.DEVNULL)
    said(last, "attached")
    before.send_signal(signal.SIGCONT)
    assert (ended(before), ended(last)) == (4, 0)
    assert digest(out.read_bytes()) == digest(data)


# --- the broker, and the way to it --------------------------------------------------------------------------------------


def test_a_link_that_is_cut_is_told_and_costs_attach_no_byte(start_cli, run_cli, broker, throttled_peer, directory):
    down, up = noise(16 << 20, 7), noise(16 << 20, 8)
    upload, out = directory / "upload", directory / "out"
    upload.write_bytes(up)
    peer = throttled_peer(data=down)
    link = BreakableLink(broker.addresses[1])
    try:
        address = {"address": link.address}
        handle = start_cli("connect", "--detach", *peer.target, **address).stdout.read().decode().strip()
        process = start_cli("attach", "--json", handle, "-i", upload, "-o", out, **address)
        said(process, "attached")
        for i in range(1, 16):
            peer.allow(send=i << 20, take=i << 20)
            wait_until(lambda: file_size(out) >= (i << 20) - (1 << 19), "so much has come")
            link.cut()
            assert said(process, "link_broken")["reason"]
            said(process, "link_restored")
        peer.allow_all()
        assert ended(process) == 0
    finally:
        link.close()
    assert digest(out.read_bytes()) == digest(down)
    assert digest(bytes(peer.received)) == digest(up)


def test_a_broker_that_was_killed_has_lost_the_connection_and_the_last_offsets_are_told(
    start_cli, start_broker, throttled_peer, directory
):
    address = f"unix:{directory}/again.sock"
    broker = start_broker("--listen", address)
    peer = throttled_peer(data=b"d" * 3000)
    peer.allow(send=1000, take=500)
    out, upload = directory / "out", directory / "upload"
    upload.write_bytes(b"u" * 500)
    handle = start_cli("connect", "--detach", *peer.target, address=address).stdout.read().decode().strip()
    process = start_cli("attach", handle, "-o", out, "-i", upload, "--no-half-close", address=address)
    wait_until(lambda: file_size(out) == 1000, "what was sent has come")
    peer.wait_received(500)
    broker.signal(signal.SIGKILL)
    broker.wait()
    start_broker("--listen", address)
    assert ended(process) == 1
    told = process.stderr.read().decode()
    assert "is lost" in told and "was restarted" in told
    assert "1000 bytes had come and were written out" in told
    # The last acks may not have come.
    assert int(re.search(r"of what was written the old broker had at least (\d+) bytes", told)[1]) <= 500
    again = start_cli("attach", handle, "-o", out, "--continue", address=address)
    assert ended(again) == 1
    told = again.stderr.read().decode()
    assert "LOST: the broker was restarted" in told and "up to byte 1000" in told


def test_without_a_broker_attach_is_status_3(run_cli, directory):
    result = run_cli("-b", f"unix:{directory}/none.sock", "attach", "abcd")
    assert result.returncode == 3
    assert b"start `sockbrokerd`" in result.stderr
