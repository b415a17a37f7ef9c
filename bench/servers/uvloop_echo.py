"""uvloop as a contestant: an echo server on one thread, with asyncio's streams or with a bare Protocol.

Usage: uvloop_echo.py streams|protocol tcp|unix:PATH
"""

import asyncio
import sys

import uvloop

BLOCK = 64 * 1024


async def echo(reader, writer):
    try:
        while data := await reader.read(BLOCK):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def serve(api, address):
    loop = asyncio.get_running_loop()
    if api == "streams" and address == "tcp":
        server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=1024)
    elif api == "streams":
        server = await asyncio.start_unix_server(echo, address[5:], backlog=1024)
    elif address == "tcp":
        server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1024)
    else:
        server = await loop.create_unix_server(Echo, address[5:], backlog=1024)
    if address == "tcp":
        address = "127.0.0.1:%d" % server.sockets[0].getsockname()[1]
    print("listening on", address, flush=True)
    await server.serve_forever()


if (
    len(sys.argv) != 3
    or sys.argv[1] not in ("streams", "protocol")
    or not (sys.argv[2] == "tcp" or sys.argv[2].startswith("unix:"))
):
    sys.exit(__doc__)
uvloop.install()
asyncio.run(serve(sys.argv[1], sys.argv[2]))
