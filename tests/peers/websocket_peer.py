"""A WebSocket echo server (`serve`) and a client (`talk URL [CA]`).

The server prints its address, then a line for each connection that ends. The client does what it
reads and answers each line with one: `send N` sends N bytes and compares the echo, `text WORD`
the same with text, `close` has the server close with 4001, `wait` waits for the end, `end CODE`
closes, `leave` cuts the connection.
"""

import asyncio
import os
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

MOST = 4 << 20


async def echo(socket):
    try:
        async for message in socket:
            if message == "bye":
                await socket.close(4001, "as you wish")
            else:
                await socket.send(message)
    except ConnectionClosed:
        pass
    received = socket.protocol.close_rcvd
    print(f"ended {received.code} {received.reason}" if received else "ended broken", flush=True)


async def server():
    # Pings would keep an idle connection busy.
    async with serve(echo, "127.0.0.1", 0, max_size=MOST, ping_interval=None) as running:
        host, port = running.sockets[0].getsockname()
        print(f"{host}:{port}", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def client(url, ca=None):
    loop = asyncio.get_running_loop()
    tls = ssl.create_default_context(cafile=ca) if ca else None
    options = {"ssl": tls, "server_hostname": "a.test"} if ca else {}
    async with connect(url, max_size=MOST, ping_interval=None, **options) as socket:
        print("connected", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(await answer(socket, line.split()), flush=True)


async def answer(socket, words):
    try:
        match words:
            case ["send", length]:
                return await sent_and_received(socket, os.urandom(int(length)))
            case ["text", word]:
                return await sent_and_received(socket, word)
            case ["end", code]:
                await socket.close(int(code), "enough")
            case ["leave"]:
                socket.transport.abort()
                return "left"
            case ["close"]:
                await socket.send("bye")
        await socket.recv()
    except ConnectionClosed as closed:
        received = closed.rcvd
        return f"closed {received.code} {received.reason}" if received else "broken"
    return "open"


async def sent_and_received(socket, message):
    await socket.send(message)
    return "same" if await socket.recv() == message else "differs"


asyncio.run(server() if sys.argv[1] == "serve" else client(*sys.argv[2:]))
