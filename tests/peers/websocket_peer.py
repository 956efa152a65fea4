"""A WebSocket echo server (`serve`, prints its address) and a client (`talk URL`).

The client does what it reads: `send N` sends N bytes and compares the echo, `close` has the server
close with 4001; it answers each with a line.
"""

import asyncio
import os
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

MOST = 4 << 20


async def echo(socket):
    async for message in socket:
        if message == "bye":
            await socket.close(4001, "as you wish")
        else:
            await socket.send(message)


async def server():
    async with serve(echo, "127.0.0.1", 0, max_size=MOST) as running:
        host, port = running.sockets[0].getsockname()
        print(f"{host}:{port}", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def client(url):
    loop = asyncio.get_running_loop()
    async with connect(url, max_size=MOST) as socket:
        print("connected", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(await answer(socket, line.split()), flush=True)


async def answer(socket, words):
    try:
        if words[0] == "send":
            sent = os.urandom(int(words[1]))
            await socket.send(sent)
            same = await socket.recv() == sent
            return "same" if same else "differs"
        await socket.send("bye")
        await socket.recv()
    except ConnectionClosed as closed:
        received = closed.rcvd
        return f"closed {received.code} {received.reason}" if received else "broken"
    return "open"


asyncio.run(server() if sys.argv[1] == "serve" else client(sys.argv[2]))
