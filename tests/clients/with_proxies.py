"""nginx, Caddy and HAProxy in front of the example server `echo`, with the settings of `server/deploy/` as they
are there but for ports and times.

Each must be installed. The variable VATWERK_MAY_LACK names those that need not be, separated by blanks: `nginx`,
`caddy`, `haproxy`.
"""

import asyncio
import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
import unittest

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from echo_server import EchoServer

DEPLOY = pathlib.Path(__file__).parents[2] / "server" / "deploy"
MAY_LACK = os.environ.get("VATWERK_MAY_LACK", "").split()
# Where Debian keeps two of them.
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
HOST = "app.example"
# An address of this machine that is not the proxy's.
CLIENT = "127.0.0.2"
# How long the proxies bear silence here, and how often the vat pings, in milliseconds.
SILENCE_MS, PING_MS = 1500, 200
MIB = 1 << 20
# After this, what is waited for does not come, in seconds.
WITHIN = 60

NGINX = """\
pid {folder}/pid;
error_log stderr;
daemon off;
worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {settings};
}}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def settings(file, changes):
    """The text of a file of `server/deploy/`, with what must be there replaced."""
    text = (DEPLOY / file).read_text()
    for printed, used in changes.items():
        assert printed in text, f"{file} lacks {printed!r}"
        text = text.replace(printed, used)
    return text


def wait_until(true, lacks):
    deadline = time.monotonic() + WITHIN
    while not true():
        assert time.monotonic() < deadline, lacks()
        time.sleep(0.02)


class Vat(EchoServer):
    """A vat behind a proxy, with the settings for that."""

    def __init__(self, ping_ms):
        self.operators = free_port()
        changes = {
            "127.0.0.1:9464": f"127.0.0.1:{self.operators}",
            "ping_ms = 30000": f"ping_ms = {ping_ms}",
        }
        super().__init__(settings("vatwerk.toml", changes))


class Proxy:
    """A proxy in front of a vat, from construction on. Its kind says which: see below."""

    def __init__(self, kind, vat):
        self._folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(self._folder.name)
        self.port = free_port()
        changes = {
            "127.0.0.1:7448": f"127.0.0.1:{vat.port}",
            ":8080": f":{self.port}",
            "90s": f"{SILENCE_MS}ms",
        }
        if kind.checks:
            changes |= {kind.checks: kind.checks.replace("5s", "100ms"), "9464": f"{vat.operators}"}
        file = folder / kind.file
        file.write_text(settings(kind.file, changes))
        command = kind.command(folder, file)
        # Not what whoever runs the tests keeps for themselves.
        environment = {"PATH": PATH, "HOME": str(folder)}
        self._log = open(folder / "log", "w+")
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=self._log, stderr=subprocess.STDOUT
        )
        wait_until(self._listens, self.log)

    def _listens(self):
        assert self._process.poll() is None, "the proxy does not start: " + self.log()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def log(self):
        """What it has said of itself."""
        self._log.flush()
        self._log.seek(0)
        return self._log.read()

    def close(self):
        """Ends it, and removes all that it wrote."""
        self._process.terminate()
        self._process.wait(30)
        self._log.close()
        self._folder.cleanup()


class Behind:
    """What holds behind any proxy."""

    @classmethod
    def setUpClass(cls):
        if shutil.which(cls.program, path=PATH) is None:
            why = f"there is no {cls.program}"
            if cls.program in MAY_LACK:
                raise unittest.SkipTest(why)
            raise AssertionError(f"{why}; VATWERK_MAY_LACK does not name it")
        cls.vat = Vat(PING_MS)
        cls.addClassCleanup(cls.vat.close)
        cls.proxy = Proxy(cls, cls.vat)
        cls.addClassCleanup(cls.proxy.close)

    def connection(self):
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.proxy.port, timeout=WITHIN, source_address=(CLIENT, 0)
        )
        self.addCleanup(connection.close)
        return connection

    def ask(self, method, path, body=None, headers=None, connection=None):
        connection = connection or self.connection()
        connection.request(method, path, body, {"Host": HOST, **(headers or {})})
        answer = connection.getresponse()
        return answer, answer.read()

    async def open(self, path, proxy=None):
        """A socket to an object, which says nothing by itself."""
        port = (proxy or self.proxy).port
        url = f"ws://{HOST}:{port}/Echo/{path}"
        opened = await connect(
            url, host="127.0.0.1", port=port, proxy=None, ping_interval=None, close_timeout=1
        )
        self.addAsyncCleanup(opened.close)
        return opened

    async def receive(self, opened):
        return await asyncio.wait_for(opened.recv(), WITHIN)

    def test_pages_and_calls(self):
        answer, body = self.ask("GET", "/Echo/a/")
        self.assertEqual((answer.status, body), (200, b"There is an echo here.\n"))
        connection = self.connection()
        sent = {"Content-Type": "application/json", "Origin": f"http://{HOST}"}
        for count in [2, 4, 6]:
            call = ("POST", "/Echo/calls/call/increment", '{"amount": 2}')
            answer, body = self.ask(*call, sent, connection)
            self.assertEqual((answer.status, json.loads(body)), (200, {"count": count}))

    def test_a_body_comes_as_it_is_sent_however_long_it_is(self):
        connection = self.connection()
        connection.putrequest("POST", "/Echo/up/length", skip_host=True)
        connection.putheader("Host", HOST)
        connection.putheader("Content-Length", str(8 * MIB))
        connection.endheaders(bytes(MIB // 16))
        came = lambda: int(self.ask("GET", "/Echo/up/came")[1])
        wait_until(came, self.proxy.log)
        connection.send(bytes(8 * MIB - MIB // 16))
        answer = connection.getresponse()
        self.assertEqual((answer.status, answer.read()), (200, b"%d\n" % (8 * MIB)))
        pieces = (bytes(MIB) for _ in range(8))
        answer, body = self.ask("POST", "/Echo/up/length", pieces)
        self.assertEqual((answer.status, body), (200, b"%d\n" % (8 * MIB)))
        answer, body = self.ask("GET", f"/Echo/a/bytes/{8 * MIB}")
        self.assertEqual((answer.status, body), (200, b"." * (8 * MIB)))

    def seen(self, claims):
        """What an object is told by the proxy."""
        answer, body = self.ask("GET", "/Echo/a/headers", headers=claims)
        self.assertEqual(answer.status, 200)
        fields = [line.split(": ", 1) for line in body.decode().splitlines()]
        names = [name for (name, _) in fields]
        self.assertEqual(len(names), len(set(names)), fields)
        return {name: value for (name, value) in fields if name not in ["accept-encoding", "user-agent"]}

    def test_an_object_is_told_who_asks_and_not_what_the_client_claims(self):
        told = self.seen({})
        expected = {
            "host": HOST,
            "x-forwarded-for": f"{CLIENT}, 127.0.0.1",
            "x-forwarded-host": HOST,
            "x-forwarded-prefix": "/Echo/a",
            "x-forwarded-proto": "http",
        }
        told.pop("x-real-ip", None)
        self.assertEqual(told, expected)
        claims = {
            "Forwarded": "for=6.6.6.6;host=evil.example",
            "X-Forwarded-For": "6.6.6.6",
            "X-Forwarded-Host": "evil.example",
            "X-Forwarded-Port": "666",
            "X-Forwarded-Prefix": "/evil",
            "X-Forwarded-Proto": "gopher",
            "X-Real-IP": "6.6.6.6",
            "Vatwerk-User": "evil",
        }
        told = self.seen(claims)
        self.assertEqual(told.pop("x-real-ip", CLIENT), CLIENT)
        self.assertEqual(told, expected)

    def test_a_name_that_is_not_the_vats_is_refused_and_so_is_a_page_of_another(self):
        answer, _ = self.ask("GET", "/Echo/a/", headers={"Host": "evil.example"})
        refused = (answer.status, answer.headers["vatwerk-error"])
        self.assertEqual(refused, (421, "permission-denied"))
        answer, _ = self.ask("POST", "/Echo/a/echo", b"x", {"Origin": "http://evil.example"})
        self.assertEqual(answer.status, 403)

    def test_operators_paths_are_not_passed_on(self):
        for path in ["/metrics", "/livez", "/readyz", "/healthz", "/metrics?x"]:
            answer, body = self.ask("GET", path)
            # The vat would say so in its own words.
            refused = (answer.status, answer.headers["vatwerk-error"])
            self.assertEqual(refused, (404, None), path)
            self.assertNotIn(b"vatwerk_", body)

    async def test_a_web_socket_outlasts_the_silence_that_the_proxy_bears(self):
        opened = await self.open("a/socket")
        await opened.send("before")
        self.assertEqual(await self.receive(opened), "before")
        await asyncio.sleep(3 * SILENCE_MS / 1000)
        await opened.send("after")
        self.assertEqual(await self.receive(opened), "after")

    async def test_without_pings_the_proxy_would_end_it(self):
        vat = await asyncio.to_thread(Vat, 0)
        self.addCleanup(vat.close)
        proxy = await asyncio.to_thread(Proxy, type(self), vat)
        self.addCleanup(proxy.close)
        opened = await self.open("a/socket", proxy)
        await opened.send("before")
        self.assertEqual(await self.receive(opened), "before")
        with self.assertRaises(ConnectionClosed) as ended:
            await self.receive(opened)
        # Nobody has closed it: the connection is gone.
        self.assertIsNone(ended.exception.rcvd)

    def status(self):
        return self.ask("GET", "/Echo/a/")[0].status

    async def test_a_vat_that_is_started_again_is_found_again(self):
        opened = await self.open("a/socket")
        await asyncio.to_thread(self.vat.stop)
        with self.assertRaises(ConnectionClosed) as ended:
            await self.receive(opened)
        self.assertEqual(ended.exception.rcvd.code, 1001)
        self.assertIn(await asyncio.to_thread(self.status), [502, 503])
        await asyncio.to_thread(self.vat.start)
        again = lambda: self.status() == 200
        await asyncio.to_thread(wait_until, again, self.proxy.log)
        opened = await self.open("a/socket")
        await opened.send("again")
        self.assertEqual(await self.receive(opened), "again")


class Nginx(Behind, unittest.IsolatedAsyncioTestCase):
    program, file = "nginx", "nginx.conf"
    checks = None

    @staticmethod
    def command(folder, file):
        main = folder / "main.conf"
        main.write_text(NGINX.format(folder=folder, settings=file))
        return ["nginx", "-p", folder, "-c", main]


class Caddy(Behind, unittest.IsolatedAsyncioTestCase):
    program, file = "caddy", "Caddyfile"
    checks = "health_interval 5s"

    @staticmethod
    def command(folder, file):
        return ["caddy", "run", "--adapter", "caddyfile", "--config", file]


class HAProxy(Behind, unittest.IsolatedAsyncioTestCase):
    program, file = "haproxy", "haproxy.cfg"
    checks = "inter 5s"

    @staticmethod
    def command(folder, file):
        return ["haproxy", "-db", "-f", file]


if __name__ == "__main__":
    unittest.main()
