"""What must hold under each fault, as functions of the fault: the tests give the real one, the self-check gives none and sees
that the function then fails."""

import hashlib
import time

from stack import PATIENCE, Program, wait_until

MEGABYTE = 1 << 20
# The files that nginx serves, in MiB: far more than what fits into the buffers between it and a test, and enough to time.
BIG, SMALL = 64, 4


def a_transfer_outlives(stack, sha256, fault, *arguments):
    """While the fault lasts nothing comes through; afterwards the rest does, equal to the byte."""
    with stack.transfer() as transfer:
        transfer.read(MEGABYTE)
        with fault(stack, *arguments):
            assert not stack.answers(), "the broker can be reached: the fault was not injected"
        status, said = transfer.finish()
        assert (status, transfer.sha256.hexdigest()) == (0, sha256), said


def its_connections_are_lost(stack, fault, *arguments):
    """The transfer breaks off and says so; the broker that comes back calls the old handles LOST, for it is the same one."""
    opened = "print(ask.Connection(ask.broker(), 'redis', 6379).handle.hex())"
    handle = stack.python("client", opened).stdout.strip()
    before = stack.inspect("broker")["State"]["Pid"]
    with stack.transfer() as transfer:
        transfer.read(MEGABYTE)
        with fault(stack, *arguments):
            pass
        stack.await_broker()
        assert stack.inspect("broker")["State"]["Pid"] != before, "the broker is still the same process"
        status, said = transfer.finish()
        assert status == 1, said
        assert "sockbroker:" in said
    assert reason_of(stack, handle) == "LOST"


def reason_of(stack, handle, broker="broker", service="client"):
    """What a broker says of a handle: OK, or the reason in the error's detail."""
    return stack.python(
        service,
        "import grpc, os\n"
        "from google.rpc import status_pb2\n"
        "from sockbroker.v1 import connection_pb2, error_pb2\n"
        "os.environ['SOCKBROKER_ADDRESS'] = sys.argv[2] + ':7400'\n"
        "try:\n"
        "    ask.broker().GetConnection(connection_pb2.GetConnectionRequest(handle=bytes.fromhex(sys.argv[1])), timeout=20)\n"
        "    print('OK')\n"
        "except grpc.RpcError as error:\n"
        "    for key, value in error.trailing_metadata():\n"
        "        if key == 'grpc-status-details-bin':\n"
        "            detail = error_pb2.ErrorDetail()\n"
        "            status_pb2.Status.FromString(value).details[0].Unpack(detail)\n"
        "            print(error_pb2.Reason.Name(detail.reason))\n",
        handle,
        broker,
    ).stdout.strip()


def it_takes_its_time(stack, sha256, mbit, fault, *arguments):
    """A slow link makes the transfer slow, and nothing else."""
    with fault(stack, *arguments) as link:
        with stack.transfer(path="/small") as transfer:
            # Counted from the answer's head on: how long a container takes to start a program is nothing of the link's.
            began = time.monotonic()
            status, said = transfer.finish()
        took = time.monotonic() - began
        assert (status, transfer.sha256.hexdigest()) == (0, sha256), said
        # A tenth less: the bucket is full at the beginning.
        assert took > 0.9 * SMALL * 8 * 1.048576 / mbit, f"{SMALL} MiB took {took:.2f} s: the link is not slow"
        assert link.shaping() in ("netem", "tbf")


def it_is_repaired(stack, sha256, fault, *arguments):
    """What a bad link loses is sent again; nobody notices."""
    with fault(stack, *arguments) as link:
        with stack.transfer(path="/small") as transfer:
            status, said = transfer.finish()
        assert (status, transfer.sha256.hexdigest()) == (0, sha256), said
        # Of nearly 3,000.
        assert (dropped := link.dropped()) > 10, f"the link has lost {dropped} packets"


# Reads the connection `sys.argv[1]` from its offset `sys.argv[2]` to its end, or `sys.argv[3]` bytes of it. Kept reads: what
# is read is dropped by the broker only when the next read asks for what comes behind. A new one's handle is the first line
# (of stdout: `docker exec` has one stream for both, and a full stdout would hold stderr back).
RELAY = """
import sys
sys.path.insert(0, "/usr/local/bin")
import ask
from sockbroker.v1 import io_pb2
stub = ask.broker()
if sys.argv[1] == "new":
    c = ask.Connection(stub, "nginx", 80)
    c.write(b"GET /big HTTP/1.0\\r\\n\\r\\n")
    handle = c.handle
    sys.stdout.write(handle.hex() + "\\n")
    sys.stdout.flush()
else:
    handle = bytes.fromhex(sys.argv[1])
offset, end = int(sys.argv[2]), int(sys.argv[3])
while offset < end:
    answer = stub.Read(io_pb2.ReadRequest(handle=handle, n=min(end - offset, 1 << 18), offset=offset), timeout=20)
    if answer.eof and not answer.data: break
    sys.stdout.buffer.write(answer.data)
    sys.stdout.buffer.flush()
    offset += len(answer.data)
else:
    sys.stdin.read()  # until it is killed
"""


def relay(stack, service, handle, offset, end):
    return Program(stack, service, "python3", "-B", "-c", RELAY, handle, offset, end)


def the_transfer_breaks_off(stack, fault, *arguments):
    """A back end that dies is the connection's end, not the broker's."""
    with relay(stack, "client", "new", 0, 1 << 40) as program:
        program.read_line()
        size = 0
        while size < MEGABYTE:
            size += len(program.read_some())
        with fault(stack, *arguments):
            while data := program.read_some():
                size += len(data)
            assert size < BIG * MEGABYTE, "the back end has sent all there was: it was alive"
            assert stack.answers()


def another_container_goes_on(stack, sha256, fault, *arguments):
    """The client dies in mid-transfer; another, in another container, has the handle and the offset, and reads on."""
    data = bytearray()
    with relay(stack, "client", "new", 0, 5 * MEGABYTE + 1) as first:
        handle = first.read_line().strip()
        while len(data) <= 5 * MEGABYTE:
            data += first.read_some()
        with fault(stack, *arguments):
            assert not stack.inspect("client")["State"]["Running"], "the first client is alive"
            with relay(stack, "visitor", handle, len(data), 1 << 40) as second:
                while more := second.read_some():
                    data += more
                status, said = second.wait()
            assert status == 0, said
    _, _, body = data.partition(b"\r\n\r\n")
    assert hashlib.sha256(body).hexdigest() == sha256


# A server of one connection: sends `sys.argv[1]` MiB of noise and takes what comes, to the end of both, but of either no more
# than half before a line on stdin. Says its port, when more than a MiB has come, the SHA-256 of all that came and the noise's.
PEER = """
import hashlib, os, socket, sys, threading
noise = os.urandom(int(sys.argv[1]) << 20)
half, go = len(noise) // 2, threading.Event()
listener = socket.create_server(("", 0))
# So that what it does not take is still the client's.
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
print(listener.getsockname()[1], flush=True)
s, _ = listener.accept()
def send():
    s.sendall(noise[:half])
    go.wait()
    s.sendall(noise[half:])
    s.shutdown(socket.SHUT_WR)
def take():
    taken, came, told = hashlib.sha256(), 0, False
    while data := s.recv(1 << 16):
        taken.update(data)
        came += len(data)
        if came > 1 << 20 and not told:
            told = True
            print("under way", flush=True)
        if came >= half:
            go.wait()
    print(taken.hexdigest(), flush=True)
threads = [threading.Thread(target=f) for f in (send, take)]
for thread in threads: thread.start()
sys.stdin.readline()
go.set()
for thread in threads: thread.join()
print(hashlib.sha256(noise).hexdigest(), flush=True)
"""


def another_container_attaches(stack, options, fault, *arguments):
    """The same with the command line, in both directions at once: `attach --continue` needs the handle and the files, and
    the files say where they stand."""
    place = stack.root("visitor", "sh", "-c", "d=$(mktemp -d /files/XXXXXX) && chown sockbroker $d && echo $d").strip()
    down, up = f"{place}/down", f"{place}/up"
    sent = stack.run("client", "sh", "-c", f"head -c {BIG}M /dev/urandom >{up} && sha256sum {up}").stdout.split()[0]

    def size_of_down():
        return int(stack.run("visitor", "sh", "-c", f"stat -c %s {down} || echo 0").stdout)

    with Program(stack, "peer", "python3", "-B", "-c", PEER, BIG) as peer:
        port = peer.read_line().strip()
        handle = stack.run("client", "sockbroker", "connect", "--detach", "--lease", "600", "peer", port).stdout.strip()
        attach = ("sockbroker", "attach", handle, "-o", down, "-i", up, "--continue")
        with Program(stack, "client", *attach) as first:
            assert peer.read_line() == "under way\n"
            wait_until(lambda: size_of_down() > MEGABYTE, "a MiB has come")
            with fault(stack, *arguments):
                assert not stack.answers("client"), "the first client still has the broker"
                assert size_of_down() < BIG * MEGABYTE
                peer.write(b"go on\n")
                ended = stack.run("visitor", *attach, *options, check=False)
                assert ended.returncode == 0, ended.stderr
            # Perhaps it is back by now: it does not say that all went well, and the file stays as it is.
            assert first.wait()[0] != 0
        assert peer.read_line().strip() == sent
        noise = peer.read_line().strip()
    assert stack.run("visitor", "sha256sum", down).stdout.split()[0] == noise


def it_cannot_be_reached(stack, service, port):
    """The client finds neither the back end's name nor a way to its address."""
    address = stack.address(service, "back")
    for host in service, address:
        ended = stack.run(
            "client", "python3", "-c",
            "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)", host, port, check=False,
        )  # fmt: skip
        assert ended.returncode != 0, f"{host} port {port} is reached without the broker"


def the_broker_is_the_peer(stack, ask):
    """Whom redis sees: `ask` runs a command against it and gives what it said."""
    seen = ask(stack, "CLIENT INFO")
    assert f" addr={stack.address('broker', 'back')}:" in " " + seen, f"redis talks with somebody else: {seen}"
