"""The Python package `websockets` against the example server `echo`."""

import asyncio
import signal
import unittest

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from echo_server import EchoServer

# Objects fall asleep soon.
SETTINGS = "[limits]\nidle_ms = 200\n"
MIB = 1 << 20


class WebSockets(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.server = EchoServer(SETTINGS)
        self.addCleanup(self.server.close)

    async def open(self, path, server=None, **options):
        """A socket to an object, such as `name/echo`, which is closed at the end of the test."""
        url = (server or self.server).url(f"/Echo/{path}", "ws")
        socket = await connect(url, **options)
        self.addAsyncCleanup(socket.close)
        return socket

    async def receive(self, socket):
        return await asyncio.wait_for(socket.recv(), 60)

    async def end(self, socket):
        """With which code and reason the server ends it."""
        with self.assertRaises(ConnectionClosed) as ended:
            while True:
                await self.receive(socket)
        frame = ended.exception.rcvd
        return (frame.code, frame.reason) if frame else None

    async def test_messages_come_back_as_they_were_in_order(self):
        socket = await self.open("a/socket")
        messages = ["text", b"\0data\xff", "", b"", "\U0001f426 ~ \0", "x" * MIB, bytes(MIB)]
        for message in messages:
            await socket.send(message)
            self.assertEqual(await self.receive(socket), message)
        for n in range(1000):
            await socket.send(str(n))
        for n in range(1000):
            self.assertEqual(await self.receive(socket), str(n))

    async def test_fragments_are_one_message_and_pings_are_answered_between(self):
        socket = await self.open("a/socket")

        async def fragments():
            yield "one "
            await (await socket.ping(b"between"))
            yield ""
            yield "message"

        await socket.send(fragments())
        self.assertEqual(await self.receive(socket), "one message")
        await (await socket.ping())

    async def test_a_message_over_the_limit_ends_its_socket_only(self):
        other = await self.open("a/socket")
        socket = await self.open("a/socket")
        await socket.send("x" * (MIB + 1))
        self.assertEqual((await self.end(socket))[0], 1009)
        await other.send("here")
        self.assertEqual(await self.receive(other), "here")

    async def test_text_that_is_none_ends_its_socket(self):
        socket = await self.open("a/socket")
        await socket.send(b"\xff", text=True)
        self.assertEqual((await self.end(socket))[0], 1007)

    async def test_the_object_chooses_a_protocol(self):
        socket = await self.open("a/socket", subprotocols=["first", "second"])
        self.assertEqual(socket.subprotocol, "first")
        self.assertIsNone((await self.open("a/socket")).subprotocol)

    async def test_what_is_no_path_of_a_class_is_refused(self):
        for path in ["/Nothing/a/socket", "/Echo"]:
            with self.assertRaises(InvalidStatus) as refused:
                await connect(self.server.url(path, "ws"))
            self.assertEqual(refused.exception.response.status_code, 404)

    async def test_the_object_is_told_how_sockets_end(self):
        watcher = await self.open("a/ends")
        socket = await self.open("a/socket")
        await socket.close(4002, "good bye")
        self.assertEqual(await self.receive(watcher), "clean 4002 good bye")
        self.assertEqual(socket.close_code, 4002)
        socket = await self.open("a/socket")
        await socket.close()
        self.assertEqual(await self.receive(watcher), "clean 1000 ")
        socket = await self.open("a/socket")
        socket.transport.abort()
        self.assertEqual((await self.receive(watcher)).split()[:2], ["lost", "1006"])

    async def test_the_object_ends_a_socket(self):
        socket = await self.open("a/close")
        await socket.send("please")
        self.assertEqual(await self.end(socket), (4001, "as it was asked to"))

    async def test_a_handler_that_fails_ends_its_socket_only(self):
        other = await self.open("a/socket")
        socket = await self.open("a/fail")
        await socket.send("please")
        code, reason = await self.end(socket)
        self.assertEqual(code, 1011)
        self.assertNotIn("panic", reason)
        await other.send("here")
        self.assertEqual(await self.receive(other), "here")

    async def test_a_reset_ends_the_sockets_of_its_object_only(self):
        others = await self.open("other/socket")
        neighbour = await self.open("a/socket")
        socket = await self.open("a/panic")
        await socket.send("please")
        self.assertEqual((await self.end(socket))[0], 1012)
        self.assertEqual((await self.end(neighbour))[0], 1012)
        await others.send("here")
        self.assertEqual(await self.receive(others), "here")
        again = await self.open("a/socket")
        await again.send("again")
        self.assertEqual(await self.receive(again), "again")

    async def test_many_sockets_hear_a_broadcast(self):
        paths = ["a/broadcast"] * 300 + ["a/socket"]
        *listeners, bystander = [await self.open(path) for path in paths]
        await listeners[0].send("to all")
        await listeners[1].send(b"to all")
        heard = await asyncio.gather(*map(self.receive, listeners))
        self.assertEqual(heard, ["to all"] * len(listeners))
        heard = await asyncio.gather(*map(self.receive, listeners))
        self.assertEqual(heard, [b"to all"] * len(listeners))
        await bystander.send("alone")
        self.assertEqual(await self.receive(bystander), "alone")

    async def test_who_does_not_read_is_given_up_and_holds_up_nobody(self):
        watcher = await self.open("a/ends")
        stalled = await self.open("a/broadcast", max_queue=1)
        speaker = await self.open("a/broadcast")
        given_up = asyncio.create_task(self.receive(watcher))
        while not given_up.done():
            await speaker.send(bytes(MIB // 2))
            await self.receive(speaker)
        self.assertEqual(given_up.result(), "lost 1008 it reads too slowly")
        # What was sent before that is there; the close frame may be.
        with self.assertRaises(ConnectionClosed):
            while True:
                await self.receive(stalled)

    async def test_who_answers_no_ping_is_lost(self):
        server = EchoServer("[http]\nping_ms = 200\n")
        self.addCleanup(server.close)
        watcher = await self.open("a/ends", server)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        self.addCleanup(writer.close)
        writer.write(
            b"GET /Echo/a/socket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        self.assertIn(b"101 Switching Protocols", await reader.readuntil(b"\r\n\r\n"))
        self.assertEqual((await self.receive(watcher)).split()[:2], ["lost", "1006"])
        # A ping came before that, and nothing after.
        self.assertEqual(await reader.read(), b"\x89\0")

    async def test_sockets_outlast_the_sleep_of_their_object(self):
        count = await self.open("a/count")
        listeners = [await self.open("a/broadcast") for _ in range(10)]
        for expected in ["1", "2"]:
            await count.send("once more")
            self.assertEqual(await self.receive(count), expected)
        for expected in ["3", "4"]:
            await asyncio.to_thread(self.server.wait_for_sleep, "a")
            woken = self.server.state("a")["activatedMs"]
            # The protocol is the vat's: nobody wakes for it.
            await (await count.ping())
            self.assertEqual(self.server.state("a")["state"], "asleep")
            await count.send("once more")
            self.assertEqual(await self.receive(count), expected)
            self.assertGreater(self.server.state("a")["activatedMs"], woken)
        await asyncio.to_thread(self.server.wait_for_sleep, "a")
        await listeners[3].send("all awake?")
        heard = await asyncio.gather(*map(self.receive, listeners))
        self.assertEqual(heard, ["all awake?"] * len(listeners))

    async def test_a_heartbeat_is_answered_and_nobody_wakes(self):
        socket = await self.open("a/heart")
        await socket.send("when?")
        self.assertEqual(await self.receive(socket), "None")
        await asyncio.to_thread(self.server.wait_for_sleep, "a")
        await socket.send("ping")
        self.assertEqual(await self.receive(socket), "pong")
        self.assertEqual(self.server.state("a")["state"], "asleep")
        await socket.send("when?")
        self.assertRegex(await self.receive(socket), r"Some\(\d{13}\)")

    async def test_a_handler_that_takes_too_long_resets_its_object(self):
        others = await self.open("other/socket")
        socket = await self.open("a/patience")
        await socket.send("take your time")
        self.assertEqual((await self.end(socket))[0], 1012)
        await others.send("here")
        self.assertEqual(await self.receive(others), "here")

    async def test_a_socket_that_ends_wakes_the_object_that_is_to_know(self):
        watcher = await self.open("a/ends")
        socket = await self.open("a/socket")
        await asyncio.to_thread(self.server.wait_for_sleep, "a")
        socket.transport.abort()
        self.assertEqual((await self.receive(watcher)).split()[:2], ["lost", "1006"])

    async def test_a_stop_says_so_and_the_next_server_takes_over(self):
        asleep = await self.open("a/count")
        awake = await self.open("b/socket")
        await asyncio.to_thread(self.server.wait_for_sleep, "a")
        await awake.send("here")
        await self.receive(awake)
        stopping = asyncio.create_task(asyncio.to_thread(self.server.stop))
        self.assertEqual((await self.end(asleep))[0], 1001)
        self.assertEqual((await self.end(awake))[0], 1001)
        await stopping
        self.server.start()
        again = await self.open("b/socket")
        await again.send("again")
        self.assertEqual(await self.receive(again), "again")
        await asyncio.to_thread(self.server.stop, signal.SIGKILL)
        self.assertIsNone(await self.end(again))


if __name__ == "__main__":
    unittest.main()
