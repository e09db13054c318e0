"""The schema that the example server `echo` exports, and nothing else of Cap'n Proto's, through pycapnp,
capnp-es and Debian's `capnpc-c++`.

Each must be there. The variable VATWERK_MAY_LACK names those that need not be, separated by blanks:
`typescript`, `c++`.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import capnp

from echo_server import EchoServer

capnp.remove_import_hook()

CAPNP_ES = ["capnp-es@0.0.16", "typescript@5.9.3"]
MAY_LACK = os.environ.get("VATWERK_MAY_LACK", "").split()
# What capnp-es imports and does not have; it declares the type itself.
STREAM = 'import { StreamResult } from "capnp-es/capnp/stream";\n'
WITHIN = 300


class Export(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.kept = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.kept.cleanup)
        cls.folder = pathlib.Path(cls.kept.name) / "export"
        server = EchoServer()
        cls.addClassCleanup(server.close)
        export = [os.path.abspath(os.environ["VATWERK_ECHO"]), "schema", "export", cls.folder]
        subprocess.run([*export, "--connect", f"unix:{server.socket}"], check=True, timeout=WITHIN)
        cls.request = (cls.folder / "vat.cgr").read_bytes()

    def lacks(self, language, why):
        if language in MAY_LACK:
            self.skipTest(why)
        self.fail(f"{why}; VATWERK_MAY_LACK does not name {language}")

    def run_on_request(self, command, folder, env=None):
        folder.mkdir()
        done = subprocess.run(
            command, input=self.request, cwd=folder, env=env, capture_output=True, timeout=WITHIN
        )
        self.assertEqual(done.returncode, 0, done.stderr.decode())

    def test_pycapnp_loads_every_file(self):
        files = sorted(self.folder.glob("**/*.capnp"))
        self.assertGreaterEqual(len(files), 12)
        loaded = {}
        for file in files:
            name = str(file.relative_to(self.folder))
            loaded[name] = capnp.load(str(file), imports=[str(self.folder)])
        counter = loaded["vatwerk/counter.capnp"].Counter
        self.assertEqual(counter.schema.node.id, 0xB8F725B103F79538)
        credential = loaded["vatwerk/vat.capnp"].Credential.new_message(token="secret")
        self.assertEqual(credential.token, "secret")

    def test_pycapnp_takes_a_schema_of_a_user_beside_it(self):
        mine = pathlib.Path(self.kept.name) / "mine.capnp"
        mine.write_text(
            '@0xe8a3c3f1d2b40401;\n'
            'using Go = import "/go.capnp";\n'
            '$Go.package("mine");\n$Go.import("mine");\n'
            'using Object = import "/vatwerk/object.capnp";\n'
            'interface Mine { meet @0 (it :Object.Stub) -> stream; }\n'
        )
        loaded = capnp.load(str(mine), imports=[str(self.folder)])
        self.assertIn("meet", loaded.Mine.schema.methods)

    def test_capnp_es_generates_modules_that_load(self):
        if shutil.which("npm") is None or shutil.which("node") is None:
            self.lacks("typescript", "there is no npm, or no node")
        home = pathlib.Path(sys.prefix) / "capnp-es"
        home.mkdir(exist_ok=True)
        quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
        install = ["npm", "install", *quiet, "--prefix", home, *CAPNP_ES]
        if subprocess.run(install, timeout=WITHIN).returncode != 0:
            self.lacks("typescript", "npm does not get capnp-es")
        out = home / "export"
        shutil.rmtree(out, ignore_errors=True)
        compiler = home / "node_modules/capnp-es/dist/compiler/capnpc-ts.mjs"
        self.run_on_request(["node", compiler, "-ots:."], out)
        (out / "package.json").write_text('{"type": "module"}')
        files = sorted(out.glob("**/*.ts"))
        for file in files:
            file.write_text(file.read_text().replace(STREAM, ""))
        tsc = [home / "node_modules/.bin/tsc", "--target", "es2022", "--module", "nodenext"]
        tsc += ["--useDefineForClassFields", "false", "--skipLibCheck", *files]
        subprocess.run(tsc, cwd=out, check=True, timeout=WITHIN)
        for file in files:
            name = file.relative_to(out).with_suffix(".js")
            show = f'import("./{name}").then(it => console.log(it._capnpFileId))'
            printed = subprocess.run(
                ["node", "-e", show], cwd=out, check=True, capture_output=True, timeout=WITHIN
            )
            self.assertRegex(printed.stdout, rb"^\d+n\n$", name)

    def packages_of_cpp(self):
        """The compiler's package and that of its library, if apt knows them."""
        show = ["apt-cache", "depends", "--important", "capnproto"]
        told = subprocess.run(show, capture_output=True, text=True).stdout
        libraries = re.findall(r"Depends: (libcapnp-\S+)", told)
        return ["capnproto", *libraries] if libraries else None

    def test_cpp_generates_headers(self):
        folder = pathlib.Path(self.kept.name)
        if shutil.which("apt-get") is None:
            self.lacks("c++", "there is no apt-get")
        packages = self.packages_of_cpp()
        if packages is None:
            subprocess.run(["apt-get", "update", "-qq"])
            packages = self.packages_of_cpp()
        get = ["apt-get", "download", "-qq", *(packages or [])]
        if packages is None or subprocess.run(get, cwd=folder).returncode != 0:
            self.lacks("c++", "there is no capnproto to be had from Debian")
        # Unpacked, not installed: other tests are sure that there is no Cap'n Proto.
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, folder / "root"], check=True)
        (libraries,) = (folder / "root/usr/lib").glob("*-linux-gnu")
        env = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
        out = folder / "c++"
        self.run_on_request([folder / "root/usr/bin/capnpc-c++"], out, env)
        header = (out / "vatwerk/counter.capnp.h").read_text()
        self.assertIn("struct Counter", header)
        # And the files themselves, without the standard ones.
        command = [folder / "root/usr/bin/capnp", "compile", "--no-standard-import", "-o-"]
        files = [str(it.relative_to(self.folder)) for it in self.folder.glob("**/*.capnp")]
        compiled = subprocess.run(
            [*command, "-I.", *files], cwd=self.folder, env=env, capture_output=True
        )
        self.assertEqual(compiled.returncode, 0, compiled.stderr.decode())


if __name__ == "__main__":
    unittest.main()
