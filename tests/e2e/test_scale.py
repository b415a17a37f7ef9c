"""Many connections, many bytes, many refusals: what there is of each goes through, and all of it comes back."""

import hashlib
import os
import resource
import select
import socket
import subprocess
import sys
import threading

import grpc
import pytest

from conftest import PATIENCE, SANITIZED, error_detail, wait_until
from sockbroker.v1 import connection_pb2, io_pb2

# Holds every connection it accepts until it is told to drop them by a line, or ended by the end of stdin; prints its
# port.
HOLDER = """
import resource, select, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
listener.setblocking(False)
print(listener.getsockname()[1], flush=True)
poll = select.poll()
poll.register(0, select.POLLIN | select.POLLHUP)
poll.register(listener, select.POLLIN)
held = []
while True:
    ready = dict(poll.poll())
    if 0 in ready:
        if not sys.stdin.readline():
            break
        for connection in held:
            connection.close()
        held.clear()
    try:
        while True:
            held.append(listener.accept()[0])
    except BlockingIOError:
        pass
"""


class Holder:
    def __init__(self, process, host, port):
        self.process, self.host, self.port = process, host, port

    def drop(self):
        self.process.stdin.write(b"drop\n")
        self.process.stdin.flush()


@pytest.fixture
def holder():
    process = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    yield Holder(process, "127.0.0.1", int(process.stdout.readline()))
    process.stdin.close()
    process.wait()
    process.stdout.close()


def open_request(peer, **more):
    return connection_pb2.OpenConnectionRequest(host=peer.host, port=peer.port, **more)


def test_ten_thousand_connections_are_held_and_everything_comes_back(start_broker, holder):
    count = 10_000
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < count * 1.2 + 512:
        pytest.skip(f"the hard limit of descriptors is {hard}")
    broker = start_broker()
    stub = broker.stub()

    def in_turns(calls, at_once=200):
        results, waiting = [], []
        for call in calls:
            waiting.append(call())
            if len(waiting) == at_once:
                results += [f.result() for f in waiting]
                waiting = []
        return results + [f.result() for f in waiting]

    def open_and_close(number):
        lease = connection_pb2.ConnectionOptions()
        lease.lease.FromSeconds(600)
        request = open_request(holder, options=lease)
        opened = in_turns(lambda: stub.OpenConnection.future(request, timeout=PATIENCE) for _ in range(number))
        handles = [answer.connection.handle for answer in opened]
        held = broker.descriptors()
        holder.drop()
        in_turns(
            lambda h=h: stub.Close.future(connection_pb2.CloseRequest(handle=h), timeout=PATIENCE) for h in handles
        )
        in_turns(
            lambda h=h: stub.WaitClosed.future(connection_pb2.WaitClosedRequest(handle=h), timeout=PATIENCE)
            for h in handles
        )
        return held

    open_and_close(200)  # what is allocated once, and kept
    descriptors = broker.descriptors()
    first = open_and_close(count)
    assert first >= descriptors + count
    wait_until(lambda: broker.descriptors() <= descriptors, "the descriptors come back")
    # A closed connection leaves a tombstone for ten minutes, and the allocator keeps what it once had: a second round
    # shows that neither grows with the connections.
    after_first = broker.memory()
    open_and_close(count)
    wait_until(lambda: broker.descriptors() <= descriptors, "the descriptors come back")
    if not SANITIZED:  # ASan keeps what is freed, to know it again
        assert broker.memory() - after_first < 25 << 20


def test_a_thousand_opens_are_refused_by_a_full_reserve_and_the_control_plane_answers(start_broker, holder):
    broker = start_broker(limit=400)  # 256 stay reserved
    stub = broker.stub()
    request = open_request(holder)
    held = [stub.OpenConnection(request, timeout=PATIENCE).connection.handle for _ in range(144)]
    refused = [stub.OpenConnection.future(request, timeout=PATIENCE) for _ in range(1_000)]
    for call in refused:
        error = call.exception()
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error_detail(error).limit_name
    for handle in held:
        assert stub.GetConnection(connection_pb2.GetConnectionRequest(handle=handle), timeout=PATIENCE).handle == handle
    assert broker.stub().ListConnections(connection_pb2.ListConnectionsRequest(), timeout=PATIENCE).connections


def test_a_gibibyte_both_ways_through_unary_calls_arrives_unchanged(stub, python_peer):
    size, block = 1 << 30, os.urandom(1 << 20)
    hashes = {}

    def piece(i, step):
        cut = i * step % len(block)
        return block[cut:] + block[:cut]

    def serve(s):
        def send():
            digest = hashlib.sha256()
            for i in range(size >> 20):
                data = piece(i, 1009)
                digest.update(data)
                s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            hashes["sent by the peer"] = digest.hexdigest()

        sender = threading.Thread(target=send)
        sender.start()
        digest, buffer = hashlib.sha256(), bytearray(1 << 20)
        while n := s.recv_into(buffer):
            digest.update(memoryview(buffer)[:n])
        sender.join()
        hashes["received by the peer"] = digest.hexdigest()

    peer = python_peer(serve)
    handle = stub.OpenConnection(open_request(peer), timeout=PATIENCE).connection.handle

    def write():
        digest, offset, writer = hashlib.sha256(), 0, os.urandom(16)
        for i in range(size >> 20):
            data = piece(i, 977)
            digest.update(data)
            answer = stub.Write(
                io_pb2.WriteRequest(
                    handle=handle, data=data, offset=offset, writer=writer, drain=True, eof=i + 1 == size >> 20
                ),
                timeout=PATIENCE,
            )
            offset += len(data)
            assert answer.write_offset == offset
        hashes["written"] = digest.hexdigest()

    writer = threading.Thread(target=write)
    writer.start()
    digest, offset = hashlib.sha256(), 0
    while True:
        answer = stub.Read(io_pb2.ReadRequest(handle=handle, n=1 << 20, offset=offset), timeout=PATIENCE)
        assert answer.offset == offset
        digest.update(answer.data)
        offset += len(answer.data)
        if answer.eof:
            break
    writer.join()
    stub.Close(connection_pb2.CloseRequest(handle=handle), timeout=PATIENCE)
    stub.WaitClosed(connection_pb2.WaitClosedRequest(handle=handle), timeout=PATIENCE)
    wait_until(lambda: "received by the peer" in hashes, "the peer is done")
    assert offset == size
    assert digest.hexdigest() == hashes["sent by the peer"]
    assert hashes["written"] == hashes["received by the peer"]
