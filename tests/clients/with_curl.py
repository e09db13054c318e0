"""curl against the example server `echo`, and Python's `http.client` for what curl does not do."""

import http.client
import json
import os
import socket
import subprocess
import tempfile
import unittest

from echo_server import EchoServer

MIB = 1 << 20
WRITE = "\n%{http_code} %{http_version} %{size_download}"


class Answer:
    """What curl got."""

    def __init__(self, printed, headers):
        self.body, _, written = printed.rpartition(b"\n")
        status, self.version, self.received = written.decode().split()
        self.status = int(status)
        self.headers = {}
        for line in headers.splitlines():
            name, colon, value = line.partition(":")
            if colon:
                self.headers[name.lower()] = value.strip()

    def json(self):
        return json.loads(self.body)


class Curl(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = EchoServer()
        cls.addClassCleanup(cls.server.close)

    def run_curl(self, path, *options, stdin=b"", server=None):
        with tempfile.NamedTemporaryFile("r") as headers:
            command = ["curl", "-sS", "--max-time", "120", "-D", headers.name, "-w", WRITE]
            done = subprocess.run(
                [*command, *options, (server or self.server).url(path)], input=stdin, capture_output=True
            )
            self.assertEqual(done.returncode, 0, done.stderr)
            return Answer(done.stdout, headers.read())

    def check_error(self, answer, status, code):
        """An error has a body that programs read, and says nothing of what is inside."""
        self.assertEqual(answer.status, status, answer.body)
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(answer.json()["error"]["code"], code)
        self.assertEqual(answer.headers["vatwerk-error"], code)
        self.assertNotIn(b".rs", answer.body)

    def test_get_and_head(self):
        answer = self.run_curl("/Echo/a/")
        self.assertEqual((answer.status, answer.body), (200, b"There is an echo here.\n"))
        self.assertEqual(answer.headers["content-length"], "23")
        head = self.run_curl("/Echo/a/", "--head")
        # curl prints the headers for a body.
        self.assertEqual((head.status, head.headers["content-length"]), (200, "23"))
        self.assertEqual(head.received, "0")

    def test_the_name_is_percent_decoded_and_a_missing_slash_is_added(self):
        self.assertEqual(self.run_curl("/Echo/%C3%A9%2F%20/").status, 200)
        self.assertTrue(self.server.state("é/ ")["activatedMs"])
        answer = self.run_curl("/Echo/a?query")
        self.assertEqual((answer.status, answer.headers["location"]), (308, "./a/?query"))
        self.assertEqual(self.run_curl("/Echo/a", "-L").status, 200)

    def test_bodies_come_back(self):
        for body in [b"", b"hello", os.urandom(5 * MIB)]:
            for options in [
                [], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect: 100-continue"],
                ["--http2-prior-knowledge"],
            ]:
                answer = self.run_curl("/Echo/a/echo", "--data-binary", "@-", *options, stdin=body)
                self.assertEqual((answer.status, answer.body), (200, body), options)
                http2 = "--http2-prior-knowledge" in options
                self.assertEqual(answer.version, "2" if http2 else "1.1")

    def test_a_body_is_echoed_while_it_is_sent(self):
        # curl does not always read while it waits for more to send.
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        self.addCleanup(connection.close)
        connection.putrequest("POST", "/Echo/a/echo")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        answer = connection.getresponse()
        self.assertEqual(answer.status, 200)
        for piece in [b"one", b"two", b"three"]:
            connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            # Before the next is sent.
            self.assertEqual(answer.read(len(piece)), piece)
        connection.send(b"0\r\n\r\n")
        self.assertEqual(answer.read(), b"")

    def test_large_bodies_pass_in_both_directions(self):
        for version in ["--http1.1", "--http2-prior-knowledge"]:
            down = self.run_curl(f"/Echo/a/bytes/{64 * MIB}", "-o", os.devnull, version)
            self.assertEqual((down.status, down.received), (200, str(64 * MIB)))
            up = self.run_curl("/Echo/a/length", "-T", "-", version, stdin=bytes(64 * MIB))
            self.assertEqual((up.status, up.body), (200, b"%d\n" % (64 * MIB)))

    def test_one_connection_serves_many_requests(self):
        # Of HTTP/1.1: curl 7.88 fails to use one of HTTP/2 again that it began by prior knowledge.
        urls = [self.server.url("/Echo/a/")] * 3
        outputs = ["-o", os.devnull] * len(urls)
        command = ["curl", "-sS", *outputs, "-w", "%{num_connects}\n", *urls]
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
        self.assertEqual(done.stdout.split(), [b"1", b"0", b"0"])

    def test_methods_of_the_interface(self):
        call = lambda method, body, *more: self.run_curl(
            f"/Echo/methods/call/{method}", "-d", body, "-H", "Content-Type: application/json", *more
        )
        for (body, count) in [('{"amount": 5}', 5), ("{}", 6)]:
            answer = call("increment", body)
            self.assertEqual((answer.status, answer.json()), (200, {"count": count}))
            self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(call("reset", "{}").json(), {})
        self.assertEqual(call("get", "{}", "--http2-prior-knowledge").json(), {"count": 0})
        self.check_error(call("nothing", "{}"), 404, "unimplemented")
        self.check_error(call("persist", "{}"), 404, "unimplemented")
        self.check_error(call("increment", '{"amount": "many"}'), 400, "invalid-argument")
        self.check_error(call("increment", '{"amounts": 1}'), 400, "invalid-argument")
        self.check_error(call("increment", "{"), 400, "invalid-argument")
        self.check_error(self.run_curl("/Echo/methods/call/get"), 405, "unimplemented")

    def test_what_fails_says_so_and_nothing_more(self):
        self.check_error(self.run_curl("/Echo/a/fail"), 500, "application-failed")
        self.check_error(self.run_curl("/Echo/a/panic"), 503, "object-reset")
        self.assertEqual(self.run_curl("/Echo/a/").status, 200)
        self.check_error(self.run_curl("/Nothing/a/"), 404, "not-found")
        self.check_error(self.run_curl("/"), 404, "not-found")
        self.check_error(self.run_curl(f"/Echo/{'a' * 1025}/"), 400, "invalid-argument")
        self.assertEqual(self.run_curl("/Echo/a/nowhere").status, 404)

    def test_what_is_too_large_is_refused(self):
        header = "X-Long: " + "x" * 100_000
        self.assertEqual(self.run_curl("/Echo/a/", "-H", header).status, 431)
        body = b'{"amount": ' + b" " * (4 * MIB) + b"1}"
        options = ["--data-binary", "@-", "-H", "Content-Type: application/json"]
        answer = self.run_curl("/Echo/a/call/increment", *options, stdin=body)
        self.check_error(answer, 413, "limit-exceeded")

    def serve(self, settings):
        server = EchoServer(settings)
        self.addCleanup(server.close)
        return server

    def test_pages_of_others_may_do_what_the_settings_say(self):
        call = ["/Echo/a/call/increment", "-d", "{}", "-H", "Content-Type: application/json"]
        page = ["-H", "Origin: https://app.example"]
        self.check_error(self.run_curl(*call, *page), 403, "permission-denied")
        self.check_error(self.run_curl(*call, "-H", "Host: app.example"), 421, "permission-denied")
        self.assertNotIn("access-control-allow-origin", self.run_curl("/Echo/a/", *page).headers)
        image = ["-H", "Sec-Fetch-Site: same-site", "-H", "Sec-Fetch-Dest: image"]
        self.check_error(self.run_curl("/Echo/a/", *image), 403, "permission-denied")
        server = self.serve('[http]\ncors_origins = ["https://app.example"]\n')
        answer = self.run_curl(*call, *page, server=server)
        self.assertEqual(answer.json(), {"count": 1})
        self.assertEqual(answer.headers["access-control-allow-origin"], "https://app.example")
        asks = [*page, "-X", "OPTIONS", "-H", "Access-Control-Request-Method: POST"]
        answer = self.run_curl(call[0], *asks, server=server)
        self.assertEqual(answer.headers["access-control-allow-methods"], "POST")

    def test_a_class_that_is_hidden_is_not_there(self):
        server = self.serve('[http]\nhidden = ["Echo"]\n')
        for path in ["/Echo/a/", "/Echo/a/call/get"]:
            self.check_error(self.run_curl(path, server=server), 404, "not-found")

    def test_requests_beyond_the_limit_are_told_to_come_later(self):
        server = self.serve("[http]\nrequests = 1\n")
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self.addCleanup(connection.close)
        connection.request("GET", f"/Echo/a/bytes/{1 << 40}")
        connection.getresponse()
        answer = self.run_curl("/Echo/a/", server=server)
        self.check_error(answer, 503, "overloaded")
        self.assertIn("retry-after", answer.headers)

    def test_who_hangs_up_is_not_served_on(self):
        with socket.create_connection(("127.0.0.1", self.server.port)) as connection:
            connection.sendall(b"GET /Echo/hung-up/bytes/1000000000000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertTrue(connection.recv(100).startswith(b"HTTP/1.1 200 OK"))
            self.assertEqual(self.server.state("hung-up")["inFlight"], 1)
        while self.server.state("hung-up")["inFlight"]:
            pass


if __name__ == "__main__":
    unittest.main()
