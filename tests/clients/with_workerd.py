"""workerd, which is kj's own HTTP server and its HTTP over Cap'n Proto, in front of the example server
`echo`: a stub is to it what its own workers are. This program stands between the two only to name
objects; requests and sockets go from one to the other as they are.

workerd comes from npm, if there is an `npm`.
"""

import asyncio
import base64
import hashlib
import http.client
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tarfile
import unittest

import capnp
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from echo_server import EchoServer

PACKAGE = "@cloudflare/workerd-linux-64@1.20261117.1"
SHA512 = "gZLA8X11m/luZwn+YA3+mDu61vdxNJzpksP/QZqjydKTQ+VUCulsK5gtn9Bqst1p3KJu2kafQpJ1nDQv4B23jA=="
HERE = pathlib.Path(__file__).parent
MIB = 1 << 20
WITHIN = 60

capnp.remove_import_hook()
port = capnp.load(str(HERE / "workerd/port.capnp"), imports=["schema"])
kj = capnp.load("schema/kj/http.capnp", imports=["schema"])
vat = capnp.load("schema/vatwerk/vat.capnp", imports=["schema"])


def not_run(why):
    print(f"NOT RUN: {why}")
    sys.exit()


def install():
    """Where workerd is."""
    if platform.machine() != "x86_64" or shutil.which("npm") is None:
        not_run("there is no npm, or no workerd for this machine")
    folder = pathlib.Path(sys.prefix) / "workerd"
    workerd = folder / "package/bin/workerd"
    if not workerd.exists():
        folder.mkdir(exist_ok=True)
        pack = ["npm", "pack", "--silent", "--pack-destination", folder, PACKAGE]
        packed = subprocess.run(pack, capture_output=True, text=True)
        if packed.returncode != 0:
            not_run(f"npm does not get workerd: {packed.stderr}")
        name = packed.stdout.strip()
        digest = hashlib.sha512((folder / name).read_bytes()).digest()
        assert base64.b64encode(digest).decode() == SHA512, "this is another workerd"
        with tarfile.open(folder / name) as files:
            files.extract("package/bin/workerd", folder)
    return workerd


class Object(port.WorkerdBootstrap.Server):
    """An object, as workerd asks for one."""

    def __init__(self, stub):
        self.stub = stub

    async def startEvent(self, **_):
        return Event(self.stub)


class Event(port.EventDispatcher.Server):
    """One request to it, which is kj's and the stub's affair from here on."""

    def __init__(self, stub):
        self.stub = stub

    async def getHttpService(self, **_):
        return self.stub.cast_as(kj.HttpService)


class Port(port.WorkerdDebugPort.Server):
    """Where workerd finds objects."""

    def __init__(self, socket):
        self.socket = socket

    async def getEntrypoint(self, service, entrypoint, **_):
        stream = await capnp.AsyncIoStream.create_unix_connection(self.socket)
        session = capnp.TwoPartyClient(stream).bootstrap().cast_as(vat.Vat).authenticate().session
        objects = session.namespace(key={"className": service}).namespace
        return Object(objects.getByName(entrypoint).object)


class Workerd(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.server = EchoServer()
        self.addCleanup(self.server.close)

    async def asyncSetUp(self):
        await self.enterAsyncContext(capnp.kj_loop())

        async def serve(stream):
            await capnp.TwoPartyServer(stream, bootstrap=Port(self.server.socket)).on_disconnect()

        listener = await capnp.AsyncIoStream.create_server(serve, "127.0.0.1", 0)
        self.addAsyncCleanup(self.stop, listener)
        address = "127.0.0.1:%d" % listener.sockets[0].getsockname()[1]
        self.process = subprocess.Popen(
            [WORKERD, "serve", "--experimental", "--socket-addr=http=127.0.0.1:0",
             "--control-fd=1", HERE / "workerd/config.capnp"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=os.environ | {"ADDRESS": address},
        )
        told = await asyncio.to_thread(self.process.stdout.readline)
        self.http = json.loads(told)["port"]

    async def stop(self, listener):
        self.process.kill()
        await asyncio.to_thread(self.process.communicate)
        listener.close()

    async def ask(self, method, path, body=None, **headers):
        """The answer's status, its fields and its body."""

        def ask():
            connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=WITHIN)
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            told = answer.status, answer.headers, answer.read()
            connection.close()
            return told

        return await asyncio.to_thread(ask)

    async def echo(self, body, *options):
        """What an object answers that sends a body back, by curl: it reads while it writes. A client that
        writes first and reads then waits for ever when its body is longer than all buffers on the way."""
        url = f"http://127.0.0.1:{self.http}/Echo/a/echo"
        curl = ["curl", "-sS", "--fail", "--max-time", str(WITHIN), "-H", "Expect:"]
        process = await asyncio.create_subprocess_exec(
            *curl, *options, "--data-binary", "@-", url,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        echoed, _ = await process.communicate(body)
        self.assertEqual(process.returncode, 0)
        return echoed

    def socket(self, path):
        return connect(f"ws://127.0.0.1:{self.http}{path}", max_size=None, open_timeout=WITHIN)

    async def test_requests_are_answered(self):
        status, headers, body = await self.ask("GET", "/Echo/a/")
        self.assertEqual((status, body), (200, b"There is an echo here.\n"))
        self.assertEqual(headers["content-length"], "23")
        status, headers, body = await self.ask("HEAD", "/Echo/a/")
        self.assertEqual((status, headers["content-length"], body), (200, "23", b""))
        self.assertEqual((await self.ask("GET", "/Echo/a/nowhere"))[0], 404)
        # What is wrong inside stays there.
        status, _, body = await self.ask("GET", "/Echo/a/fail")
        self.assertEqual((status, body), (500, b"Internal Server Error"))

    async def test_bodies_pass_in_both_directions(self):
        for body in [b"hello", os.urandom(16 * MIB)]:
            for options in [(), ("-H", "Transfer-Encoding: chunked")]:
                self.assertTrue(await self.echo(body, *options) == body)
        length = 64 * MIB
        status, _, body = await self.ask("GET", f"/Echo/a/bytes/{length}")
        self.assertEqual((status, len(body)), (200, length))
        status, _, body = await self.ask("POST", "/Echo/a/length", iter([bytes(MIB)] * 64))
        self.assertEqual((status, body), (200, b"%d\n" % length))

    async def test_sockets_carry_messages_and_their_ends(self):
        async with self.socket("/Echo/a/socket") as socket:
            for message in ["text", b"\0data\xff", "", "\U0001f426", "x" * 300_000, bytes(300_000)]:
                await socket.send(message)
                self.assertEqual(await socket.recv(), message)
            for n in range(1000):
                await socket.send(str(n))
            for n in range(1000):
                self.assertEqual(await socket.recv(), str(n))
            await socket.close(4002, "enough")
        for path, end in [("close", (4001, "as it was asked to")), ("fail", (1011, "internal error"))]:
            async with self.socket(f"/Echo/a/{path}") as socket:
                await socket.send("now")
                with self.assertRaises(ConnectionClosed) as ended:
                    await socket.recv()
                self.assertEqual((ended.exception.rcvd.code, ended.exception.rcvd.reason), end)

    async def test_an_object_works_no_longer_than_somebody_reads(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=WITHIN)
        await asyncio.to_thread(connection.request, "GET", f"/Echo/a/bytes/{1 << 50}")
        answer = await asyncio.to_thread(connection.getresponse)
        await asyncio.to_thread(answer.read, MIB)
        self.assertEqual((await asyncio.to_thread(self.server.state, "a"))["inFlight"], 1)
        answer.close()
        connection.close()

        async def until_done():
            while (await asyncio.to_thread(self.server.state, "a"))["inFlight"] != 0:
                pass

        await asyncio.wait_for(until_done(), WITHIN)


if __name__ == "__main__":
    WORKERD = install()
    unittest.main()
