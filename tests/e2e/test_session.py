"""The Session RPC as a client in another language sees it: grpcio and the generated messages, no library of ours."""

import contextlib
import os
import queue
import select
import socket
import subprocess
import sys
import threading

import grpc
import pytest

from conftest import PATIENCE, SANITIZED, wait_until
from sockbroker.v1 import connection_pb2, session_pb2


class Session:
    """One stream: frames to send, and those that came."""

    def __init__(self, stub, holder):
        self._outgoing = queue.SimpleQueue()
        self._call = stub.Session(iter(self._outgoing.get, None))
        self._frames = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.send(hello={"holder": holder})
        self.welcome = self.expect("welcome")

    def _read(self):
        with contextlib.suppress(grpc.RpcError):
            for message in self._call:
                for frame in message.frames:
                    if frame.HasField("ping"):
                        # Behind much data the broker waits for it.
                        self.send(pong={"nonce": frame.ping.nonce})
                    else:
                        self._frames.put(frame)
        self._frames.put(None)

    def send(self, **frame):
        self.send_all([session_pb2.ClientFrame(**frame)])

    def send_all(self, frames):
        self._outgoing.put(session_pb2.ClientFrames(frames=frames))

    def next(self):
        frame = self._frames.get(timeout=PATIENCE)
        assert frame is not None, self._call.details()
        return frame

    def expect(self, kind):
        """The next frame of that kind; acks may come in between."""
        while True:
            frame = self.next()
            if frame.WhichOneof("frame") == kind:
                return getattr(frame, kind)
            assert frame.WhichOneof("frame") == "ack", frame

    def cut(self):
        self._call.cancel()
        self._reader.join(PATIENCE)

    def end(self):
        self._outgoing.put(None)
        self._reader.join(PATIENCE)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        yield server


def open_frame(channel, listener, edge=65536):
    host, port = listener.getsockname()
    return {"channel": channel, "edge": edge,
            "tcp": connection_pb2.OpenConnectionRequest(host=host, port=port, request_id=os.urandom(16))}


def test_a_connection_goes_on_at_the_exact_byte_after_the_stream_broke(stub, listener):
    holder = os.urandom(16)
    session = Session(stub, holder)
    session.send(open=open_frame(1, listener))
    # Sent ahead of the answer.
    session.send(data={"channel": 1, "offset": 0, "data": b"hello "})
    peer, _ = listener.accept()
    with peer:
        opened = session.expect("opened")
        handle = opened.connection.handle
        assert peer.recv(6, socket.MSG_WAITALL) == b"hello "
        peer.sendall(b"abcdef")
        assert session.expect("data").data == b"abcdef"
        session.cut()

        # Of the six bytes only two were stored. What the broker has of ours it says itself.
        again = Session(stub, holder)
        again.send(bind={"channel": 1, "handle": handle, "attempt": 2, "epoch": opened.epoch, "edge": 65536,
                         "read": {"offset": 2}})
        bound = again.expect("bound")
        assert (bound.epoch, bound.read.offset, bound.write.offset) == (2, 2, 6)
        assert again.expect("data").data == b"cdef"
        again.send_all([
            session_pb2.ClientFrame(data={"channel": 1, "offset": 6, "data": b"world"}),
            session_pb2.ClientFrame(eof={"channel": 1, "at": {"offset": 11}}),
        ])
        assert peer.recv(100, socket.MSG_WAITALL) == b"world"
        peer.shutdown(socket.SHUT_WR)
        assert again.expect("eof").at.offset == 6
        again.send(close={"channel": 1, "at": {"offset": 11, "marks": 1}})
        # The end is told when everything before it was taken.
        again.send(ack={"channel": 1, "taken": {"offset": 6, "marks": 1}, "edge": 65536})
        closed = again.expect("closed")
        assert closed.offsets.flushed == 11 and closed.status.code == 0
        again.end()


# Sends to every connection as fast as it goes; for each line on stdin it says how many bytes the kernel has taken.
FLOOD = """
import select, socket, sys
listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
listener.setblocking(False)
print(listener.getsockname()[1], flush=True)
poll = select.epoll()
poll.register(0, select.EPOLLIN)
poll.register(listener.fileno(), select.EPOLLIN)
held, sent, block = {}, 0, b"x" * 65536
while True:
    for fd, _ in poll.poll():
        if fd == 0:
            if not sys.stdin.readline():
                sys.exit()
            print(sent, flush=True)
        elif fd == listener.fileno():
            connection, _ = listener.accept()
            connection.setblocking(False)
            held[connection.fileno()] = connection
            poll.register(connection.fileno(), select.EPOLLOUT)
        else:
            try:
                sent += held[fd].send(block)
            except BlockingIOError:
                pass
            except OSError:
                poll.unregister(fd)
                held.pop(fd).close()
"""


def own_memory(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def test_a_thousand_peers_that_flood_a_client_that_takes_nothing_stay_within_the_budget(start_broker):
    budget = 64 << 20
    broker = start_broker("--buffer-memory", "64MiB", "--buffer-memory-per-principal", "64MiB")
    stub = broker.stub()
    flood = subprocess.Popen([sys.executable, "-c", FLOOD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        port = int(flood.stdout.readline())
        session = Session(stub, os.urandom(16))

        def open_one(channel):
            # It would let everything come: the broker obeys its own budget.
            session.send(open={"channel": channel, "edge": 1 << 40,
                               "tcp": connection_pb2.OpenConnectionRequest(host="127.0.0.1", port=port)})

        def sent():
            flood.stdin.write("\n")
            flood.stdin.flush()
            return int(flood.stdout.readline())

        before = own_memory(broker.pid)
        for number in range(1000):
            open_one(2 * number + 1)
        opened = 0
        received = 0
        while opened < 1000:
            frame = session.next()
            opened += frame.HasField("opened")
            received += len(frame.data.data)
        # Until nothing moves any more: what the broker holds is all it will hold.
        def at_rest():
            first = sent()
            select.select([], [], [], 0.2)
            return first == sent()

        wait_until(at_rest, "the flood is held back")
        if not SANITIZED:  # ASan keeps what is freed, to know it again
            growth = own_memory(broker.pid) - before
            assert growth <= 1.1 * budget, f"{growth / 2**20:.1f} MiB of {budget / 2**20:.0f} MiB"
        session.cut()
    finally:
        flood.stdin.close()
        flood.wait()
        flood.stdout.close()
