"""JupyterLab as ``make lab`` starts it."""

import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

START_S = 180
OPTIONS = "--no-browser"


@contextmanager
def served(
    home: Path, scratch: Path, environment: Mapping[str, str], options: str = ""
) -> Iterator[tuple[str, str]]:
    """The address and the token of a JupyterLab that ``make lab`` starts in ``home``.

    In ``scratch`` are its log, and a program ``jupyter`` that adds ``options`` to those of make.
    """
    token = secrets.token_hex(16)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = scratch / "venv" / "bin" / "jupyter"
    program.parent.mkdir(parents=True)
    own = f"{OPTIONS} --ServerApp.port={port} --IdentityProvider.token={token} {options}"
    text = f'#!/bin/sh\nshift\nexec "{sys.executable}" -m jupyterlab "$@" {own}\n'
    program.write_text(text, encoding="utf-8")
    program.chmod(0o755)
    (scratch / "venv" / ".installed").touch()
    command = ["make", "lab", f"VENV={scratch / 'venv'}"]
    address, log = f"http://127.0.0.1:{port}", scratch / "server.log"
    with log.open("w", encoding="utf-8") as output:
        streams = {"stdout": output, "stderr": subprocess.STDOUT}
        server = subprocess.Popen(command, cwd=home, env=environment, **streams)
        try:
            for _ in range(START_S):
                try:
                    urlopen(f"{address}/api/status?token={token}")
                    break
                except URLError:
                    assert server.poll() is None, log.read_text(encoding="utf-8")
                    time.sleep(1)
            yield address, token
        finally:
            urlopen(f"{address}/api/shutdown?token={token}", data=b"")  # make passes no signal on
            server.wait(60)
