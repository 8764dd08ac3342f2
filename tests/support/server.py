"""A server on the loopback address that breaks off, or plays the hub."""

import http.server
import json
import threading
from contextlib import contextmanager
from hashlib import sha256


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``, {path: bytes}; ``asked`` lists the path of each request for one.

    The next answers are cut after so many bytes as ``cuts`` says. As the hub does, it states the
    sha256 of a file, and the ``commit`` of its dataset.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.cuts = []
        self.asked = []
        self.commit = ""
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """Prints nothing where a client has gone."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        path = self.path.split("?")[0]
        content = self.server.files.get(path)
        if content is None:
            self.send_error(404)
            return None
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.server.commit)
        self.end_headers()
        return path

    def do_GET(self):
        path = self.do_HEAD()
        if path:
            self.server.asked.append(path)
            content = self.server.files[path]
            self.wfile.write(content[: self.server.cuts.pop(0)] if self.server.cuts else content)
            self.close_connection = True

    def log_message(self, *_):
        """Logs nothing."""


@contextmanager
def serving():
    """A running :class:`Server`."""
    server = Server()
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def add_hub(server, repo, commit, files):
    """Make ``server`` answer as the hub for a dataset with these files, in Git LFS, at a commit."""
    server.commit = commit
    api = f"/api/datasets/{repo}"
    tree = [{"type": "directory", "path": "clips", "oid": "0" * 40}]
    for path, content in files.items():
        lfs = {"oid": sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}
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
