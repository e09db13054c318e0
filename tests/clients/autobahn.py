"""The Autobahn test suite's fuzzing client against the example server `echo`: all cases but those of
compression, which the vat does not offer. Fails if a case is FAILED.

The suite needs Python 2.7. Where there is none, its cases are run by `kosoku`, also from PyPI.
"""

import collections
import json
import os
import pathlib
import shutil
import subprocess
import sys

from echo_server import EchoServer

SECTIONS = [1, 2, 3, 4, 5, 6, 7, 9, 10]
# Section 9 has messages of 16 MiB.
SETTINGS = "[http]\nmessage_bytes = 16_777_216\n"
WANTED = {"OK", "NON-STRICT", "INFORMATIONAL"}


def python2():
    """A Python 2.7 that runs, if there is one: pyenv's may be there without being chosen."""
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv"))
    found = [shutil.which("python2.7"), *pyenv.glob("versions/2.7.*/bin/python2.7")]
    for python in filter(None, found):
        if subprocess.run([python, "--version"], capture_output=True).returncode == 0:
            return str(python)
    return None


def install(python, *options):
    """Runs pip, which says what it did only if that fails."""
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options]
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run(pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    assert done.returncode == 0, done.stdout.decode()


def original(python, folder, url, cases):
    """The command that runs the suite itself."""
    packages = pathlib.Path(sys.prefix) / "autobahn"
    if not packages.exists():
        install(python, "--target", f"{packages}.new", "autobahntestsuite==25.10.1")
        os.rename(f"{packages}.new", packages)
    server = {"agent": "vatwerk", "url": url}
    spec = {"outdir": str(folder), "servers": [server], "cases": cases, "exclude-cases": []}
    (folder / "spec.json").write_text(json.dumps(spec | {"exclude-agent-cases": {}}))
    start = (
        f"import site; site.addsitedir({str(packages)!r});"
        "from autobahntestsuite.wstest import run; run()"
    )
    return [python, "-c", start, "-m", "fuzzingclient", "-s", folder / "spec.json"]


def kosoku(folder, url, cases):
    """The command that runs the suite's cases by another program."""
    install(sys.executable, "kosoku==0.1.0")
    included = [word for case in cases for word in ("-i", case)]
    return [pathlib.Path(sys.executable).with_name("kosoku"), "-o", folder, *included, url]


def main():
    folder = pathlib.Path(sys.prefix) / "autobahn-reports"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    server = EchoServer(SETTINGS)
    url = server.url("/Echo/autobahn/socket", "ws")
    cases = [f"{section}.*" for section in SECTIONS]
    python = python2()
    command = original(python, folder, url, cases) if python else kosoku(folder, url, cases)
    with open(folder / "log", "w") as log:
        # How it ends says nothing that the reports do not.
        subprocess.run(command, stdout=log, stderr=log, timeout=1200)
    assert server.process.poll() is None, "the server ended: " + server.log()
    server.close()

    report = folder / "index.json"
    assert report.exists(), (folder / "log").read_text()
    (results,) = json.loads(report.read_text()).values()
    kinds = collections.defaultdict(list)
    for case, result in results.items():
        kinds[result["behavior"]].append(case)
        if result["behaviorClose"] not in WANTED:
            kinds[f"close: {result['behaviorClose']}"].append(case)
    print(f"autobahn, by {'itself' if python else 'kosoku'}; the reports are in {folder}")
    for kind in sorted(kinds.keys() - {"OK"}):
        print(f"{kind}: {' '.join(kinds[kind])}")
    missing = {str(section) for section in SECTIONS} - {case.split(".")[0] for case in results}
    assert not missing, f"no case of sections {missing} was run"
    failed = {case for kind in kinds.keys() - WANTED for case in kinds[kind]}
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
