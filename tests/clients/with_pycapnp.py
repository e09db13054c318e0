"""pycapnp against the example server `echo`: HTTP and a WebSocket, both over Cap'n Proto."""

import asyncio
import unittest

import capnp

from echo_server import EchoServer

capnp.remove_import_hook()
http = capnp.load("schema/vatwerk/http.capnp", imports=["schema"])
objects = capnp.load("schema/vatwerk/object.capnp", imports=["schema"])
vat = capnp.load("schema/vatwerk/vat.capnp", imports=["schema"])

# Objects fall asleep soon.
SETTINGS = "[limits]\nidle_ms = 200\n"
WITHIN = 60


class Body(http.ByteSink.Server):
    """What comes of a body."""

    def __init__(self):
        self.bytes = b""
        self.whole = asyncio.get_running_loop().create_future()

    async def write(self, bytes, **_):
        self.bytes += bytes

    async def end(self, **_):
        self.whole.set_result(self.bytes)


class Down(http.Socket.Server):
    """What an object says on a socket."""

    def __init__(self):
        self.said = asyncio.Queue()

    async def sendText(self, text, **_):
        self.said.put_nowait(text)

    async def sendData(self, data, **_):
        self.said.put_nowait(data)

    async def close(self, code, reason, **_):
        self.said.put_nowait((code, reason))


class Exchange(http.Exchange.Server):
    """What comes of a request."""

    def __init__(self):
        self.body = Body()
        self.down = Down()
        self.answer = asyncio.get_running_loop().create_future()

    async def respond(self, response, **_):
        fields = {field.name: field.value for field in response.headers}
        self.answer.set_result((response.status, fields))
        return self.body

    async def upgrade(self, headers, up, **_):
        self.answer.set_result((101, up))
        return self.down


class Pycapnp(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.server = EchoServer(SETTINGS)
        self.addCleanup(self.server.close)

    async def asyncSetUp(self):
        await self.enterAsyncContext(capnp.kj_loop())
        stream = await capnp.AsyncIoStream.create_unix_connection(self.server.socket)
        self.client = capnp.TwoPartyClient(stream)
        session = self.client.bootstrap().cast_as(vat.Vat).authenticate().session
        self.objects = session.namespace(key={"className": "Echo"}).namespace

    def ask(self, name, exchange, **request):
        """Asks an object; its answer comes to `exchange`."""
        stub = self.objects.getByName(name).object.cast_as(objects.Stub)
        return stub.fetch(request=request, exchange=exchange)

    async def test_bodies_pass_in_both_directions(self):
        exchange = Exchange()
        body = [b"one ", b"two ", bytes(1 << 20)]
        asked = self.ask(
            "a", exchange, method="POST", url="/echo", bodySize={"fixed": sum(map(len, body))}
        )
        for piece in body:
            await asked.body.write(piece)
        await asked.body.end()
        status, fields = await asyncio.wait_for(exchange.answer, WITHIN)
        self.assertEqual(status, 200)
        self.assertEqual(await asyncio.wait_for(exchange.body.whole, WITHIN), b"".join(body))
        await asked

    async def test_a_socket_outlives_the_sleep_of_its_object(self):
        exchange = Exchange()
        asked = self.ask(
            "a", exchange, method="GET", url="/count",
            headers=[{"name": "upgrade", "value": "websocket"}],
        )
        status, up = await asyncio.wait_for(exchange.answer, WITHIN)
        self.assertEqual(status, 101)
        hear = lambda: asyncio.wait_for(exchange.down.said.get(), WITHIN)
        # The count is attached to the socket.
        for count in ["1", "2", "3"]:
            await asyncio.to_thread(self.server.wait_for_sleep, "a")
            self.assertEqual(self.server.state("a")["webSockets"], 1)
            await up.sendText("again")
            self.assertEqual(await hear(), count)
        await up.close(4000, "enough")
        self.assertEqual(await hear(), (4000, ""))
        await asked
        self.assertEqual(self.server.state("a")["webSockets"], 0)


if __name__ == "__main__":
    unittest.main()
