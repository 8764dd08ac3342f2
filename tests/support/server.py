"""A server on the loopback address that breaks off, forgets ranges, or plays the hub."""

import http.server
import json
import threading
from contextlib import contextmanager


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``, {path: bytes}; ``ranges`` lists the header Range of each request.

    The next answers are cut after so many bytes as ``cuts`` says. Without ``resumes``, a request
    for the rest of a file gets all of it.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.cuts = []
        self.ranges = []
        self.resumes = True
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """Prints nothing where a client has gone."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        asked = self.headers.get("Range")
        content = self.server.files.get(self.path.split("?")[0])
        if content is None:
            self.send_error(404)
            return
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        start = start if self.server.resumes else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(content)
        self.wfile.write(content[start : start + cut])
        self.close_connection = True

    def log_message(self, *_):
        """Logs nothing."""


@contextmanager
def serving():
    """A running :class:`Server`."""
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def add_hub(server, repo, commit, files):
    """Make ``server`` answer as the hub for a dataset with these files at this commit.

    All but empty files are in Git LFS.
    """
    from hashlib import sha256

    api = f"/api/datasets/{repo}"
    tree = [{"type": "directory", "path": "clips", "oid": "0" * 40}]
    for path, content in files.items():
        lfs = {"oid": sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}
        lfs = lfs if content else None
        tree.append(
            {"type": "file", "path": path, "size": len(content), "oid": "1" * 40, "lfs": lfs}
        )
        server.files[f"/datasets/{repo}/resolve/{commit}/{path}"] = content
    about = {"id": commit, "title": "all", "message": "", "date": "2026-01-01T00:00:00.000Z"}
    newer = {**about, "id": "f" * 40}
    server.files[f"{api}/commits/main"] = json.dumps(
        [{**one, "authors": []} for one in (newer, about)]
    ).encode()
    server.files[f"{api}/tree/{commit}"] = json.dumps(tree).encode()
