"""Two people chat in a real browser, while the room falls asleep and the server is killed; and rooms with hosts of
their own are strangers to each other.

    python tests/browser/chat.py target/debug/vatwerk chat.png

Needs `pip install playwright` (no browser of its own) and Chromium. Exits with 0 if all went well,
with a picture of the page in the second file.
"""

import argparse
import json
import re
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

from playwright.sync_api import Page, expect, sync_playwright

README = Path(__file__).parents[2] / "README.md"
WITHIN_MS = 30_000
IDLE_MS = 500

expect.set_options(timeout=WITHIN_MS)


class Vat:
    """The binary, serving a folder."""

    def __init__(self, binary: Path, folder: Path):
        self.binary = binary
        self.folder = folder
        self.socket = f"unix:{folder / 'vat.sock'}"
        (folder / "vat.toml").write_text(
            f'[limits]\nidle_ms = {IDLE_MS}\n[http]\nobject_host = "localhost"\n'
        )
        self.port = 0
        self.start()

    def start(self):
        """On the same port as before."""
        self.process = subprocess.Popen(
            [self.binary, "serve", "--data", self.folder / "data", "--listen", self.socket]
            + ["--http", f"127.0.0.1:{self.port}", "--metrics", "127.0.0.1:0"]
            + ["--config", self.folder / "vat.toml"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for line in self.process.stdout:
            if match := re.fullmatch(r"listening http 127\.0\.0\.1:(\d+)\n", line):
                self.port = int(match[1])
            if match := re.fullmatch(r"listening metrics (.*)\n", line):
                self.operators = match[1]
                return
        raise SystemExit("the vat does not start")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def ask(self, *args: str) -> dict:
        command = [self.binary, *args, "--connect", self.socket, "--output", "json"]
        return json.loads(subprocess.check_output(command))

    def refused(self) -> int:
        """How many requests were refused, with a status of 4xx."""
        with urlopen(f"http://{self.operators}/metrics") as answer:
            text = answer.read().decode()
        counts = re.findall(r'^vatwerk_http_requests_total\{.*status="4xx"\} (\d+)$', text, re.MULTILINE)
        return sum(map(int, counts))

    def falls_asleep(self):
        for _ in range(WITHIN_MS // IDLE_MS):
            if self.ask("objects", "show", "ChatRoom", "lobby")["state"] == "asleep":
                return
            time.sleep(IDLE_MS / 1000)
        raise SystemExit("the room does not fall asleep")


class Person:
    """Somebody with a tab of their own."""

    def __init__(self, page: Page, name: str):
        self.page = page
        self.name = name
        self.wrong = []
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", self.look_at)

    def look_at(self, message):
        # That a killed server cannot be reached is as it should be.
        if message.type == "error" and "WebSocket connection to" not in message.text:
            self.wrong.append(message.text)

    def join(self, url: str):
        self.page.goto(url)
        self.page.get_by_label("Your name").fill(self.name)
        self.page.get_by_role("button", name="Join").click()
        self.is_connected()

    def is_connected(self):
        expect(self.page.get_by_role("status")).to_have_text("Connected")

    def is_not_connected(self):
        expect(self.page.get_by_role("status")).to_have_text("Connecting again …")

    def say(self, text: str):
        box = self.page.get_by_label("Say something")
        box.fill(text)
        box.press("Enter")

    def sees(self, lines: list[str], people: list[str]):
        """Those lines and no others, each once, and all of them said."""
        expect(self.page.locator("#lines .text")).to_have_text(lines)
        expect(self.page.locator("#pending .text")).to_have_count(0)
        expect(self.page.locator("#people bdi")).to_have_text(people)


def snippet() -> str:
    """The code for browsers in README, as a function of what it finds out."""
    _, rest = README.read_text().split("```js browser\n")
    code, _ = rest.split("```\n", 1)
    return f"async () => {{ {code} return count; }}"


def step(what: str):
    print(what, flush=True)


def chat(vat: Vat, ann: Person, bob: Person) -> list[str]:
    """What was said."""
    url = f"http://127.0.0.1:{vat.port}/ChatRoom/lobby/"
    said = []

    def both_see(people=("ann", "bob <b>")):
        for person in ann, bob:
            person.sees(said, list(people))

    def says(person: Person, text: str):
        person.say(text)
        said.append(text)

    step("two people meet")
    ann.join(url)
    ann.sees([], ["ann"])
    bob.join(url)
    both_see()
    says(ann, "Hello! Is anybody here?")
    both_see()
    says(bob, "<img src=x onerror=alert(1)> is text, like everything")
    both_see()

    step("a program speaks")
    vat.ask("call", "ChatRoom", "lobby", "say", '{"author":"clock","text":"It is noon."}')
    said.append("It is noon.")
    both_see()

    step("the room falls asleep, with both of them in it")
    vat.falls_asleep()
    ann.is_connected()
    bob.is_connected()
    step("and wakes")
    says(ann, "That was quiet. Did you notice the room was asleep?")
    both_see()
    says(bob, "Not at all.")
    both_see()

    step("the server is killed")
    vat.kill()
    ann.is_not_connected()
    bob.is_not_connected()
    ann.say("And now, with no server?")
    vat.start()
    # As soon as somebody is there to hear it, and once.
    said.append("And now, with no server?")
    ann.is_connected()
    bob.is_connected()
    both_see()
    says(bob, "It is all still here.")
    both_see()

    step("a page calls methods as README says")
    assert ann.page.evaluate(snippet()) == "1"
    counted = vat.ask("call", "Counter", "user-123", "get")
    assert counted == {"count": 1}, counted

    step("a page that is loaded again has it all, and its name")
    ann.page.reload()
    ann.is_connected()
    both_see()
    return said


CALL = """async url => {
  const headers = { 'Content-Type': 'application/json' };
  return (await fetch(url, { method: 'POST', body: '{}', headers })).json();
}"""

# What became of a request of each kind, and whether a WebSocket opened.
REACH = """async url => {
  const told = [];
  for (const mode of ['no-cors', 'cors']) for (const method of ['GET', 'POST']) {
    told.push(await fetch(url, { mode, method }).then(answer => answer.type, () => 'failed'));
  }
  told.push(await new Promise(done => {
    const socket = new WebSocket(new URL('socket', url.replace('http', 'ws')));
    socket.onopen = () => done('open');
    socket.onerror = () => done('failed');
  }));
  return told;
}"""


def apart(vat: Vat, page: Page):
    """A page of one object reaches no other, and may link to it."""
    host = f"chatroom.localhost:{vat.port}"
    page.goto(f"http://lobby.{host}/")
    expect(page).to_have_title("lobby")
    assert page.evaluate(CALL, "/call/history")["lines"]

    # The room's page forbids itself what this tries; an object without pages says nothing of that.
    page.goto(f"http://stranger.counter.localhost:{vat.port}/")
    before, refused = vat.ask("classes"), vat.refused()
    strangers = [f"http://spied.{host}/", f"http://127.0.0.1:{vat.port}/ChatRoom/spied/"]
    for url in strangers:
        told = page.evaluate(REACH, url)
        assert told == ["failed"] * 5, told
    seen = vat.refused() - refused
    assert seen == 5 * len(strangers), seen
    assert vat.ask("classes") == before

    page.evaluate("url => { location.href = url; }", f"http://linked.{host}/")
    expect(page).to_have_title("linked")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("binary", type=Path, help="the built vatwerk")
    arguments.add_argument("picture", type=Path, help="where the picture of the page goes")
    arguments.add_argument("--chromium", default="/usr/bin/chromium")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        vat = Vat(given.binary.absolute(), Path(folder))
        try:
            # The tests may run as root, which Chromium's sandbox does not like, and in a container, where
            # shared memory is short.
            browser = playwright.chromium.launch(
                executable_path=given.chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
            window = browser.new_context(viewport={"width": 1000, "height": 720})
            ann, bob = (Person(window.new_page(), name) for name in ("ann", "bob <b>"))
            try:
                said = chat(vat, ann, bob)
            finally:
                ann.page.screenshot(path=given.picture)
            step("one leaves")
            bob.page.close()
            ann.sees(said, ["ann"])
            step("rooms with hosts of their own are strangers")
            apart(vat, window.new_page())
            browser.close()
        finally:
            vat.kill()
    wrong = [text for person in (ann, bob) for text in person.wrong]
    if wrong:
        raise SystemExit("\n".join(wrong))


main()
