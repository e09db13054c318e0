"""The example server `echo`, in a process of its own."""

import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time


class EchoServer:
    """Serves from construction on, with settings in TOML, at a port that is free."""

    def __init__(self, settings=""):
        self._folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(self._folder.name)
        (folder / "settings.toml").write_text(settings)
        self._binary = os.path.abspath(os.environ["VATWERK_ECHO"])
        self.socket = f"{folder}/socket"
        self._address = f"unix:{self.socket}"
        self._command = [
            self._binary, "serve", "--data", folder / "data", "--listen", self._address,
            "--config", folder / "settings.toml",
        ]
        self.port = 0
        self._log = open(folder / "log", "w+")
        self.start()

    def start(self):
        """Serves; again at the same port, after it has stopped."""
        http = ["--http", f"127.0.0.1:{self.port}"]
        self.process = subprocess.Popen(
            self._command + http, text=True, stdout=subprocess.PIPE, stderr=self._log
        )
        while not (line := self.process.stdout.readline()).startswith("listening http"):
            assert line, "the server did not start: " + self.log()
        self.port = int(line.rsplit(":", 1)[1])

    def url(self, path, scheme="http"):
        """Where that is, such as `/Echo/name/rest`."""
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def state(self, name):
        """What the vat says of an object, which does not wake it."""
        show = [self._binary, "objects", "show", "Echo", name, "--output", "json"]
        shown = subprocess.run(
            [*show, "--connect", self._address], stdout=subprocess.PIPE, check=True, timeout=60
        )
        return json.loads(shown.stdout)

    def wait_for_sleep(self, name):
        """Until the object sleeps: it does after 10 s, unless the settings say otherwise."""
        deadline = time.monotonic() + 60
        while self.state(name)["state"] != "asleep":
            assert time.monotonic() < deadline, f"{name} does not sleep: " + self.log()

    def log(self):
        """What it has said of itself."""
        self._log.flush()
        self._log.seek(0)
        return self._log.read()

    def stop(self, how=signal.SIGTERM):
        """Ends it, and waits for that."""
        self.process.send_signal(how)
        self.process.wait(30)
        self.process.stdout.close()

    def close(self):
        """Ends it, and removes all that it wrote."""
        if self.process.poll() is None:
            self.stop(signal.SIGKILL)
        self._log.close()
        self._folder.cleanup()
