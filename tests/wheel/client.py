"""Use the installed client against a server of this process; run by scripts/check-wheel.

It runs where nothing but the client is installed, so it imports the standard library alone.
"""

import io
import json
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer

from neurobento.client import Client, Retries
from neurobento.errors import ConfigError

HEAVY = {"numpy", "nibabel", "scipy", "PIL", "matplotlib", "torch", "grpc", "google"}
FILES = {"scan_dseg.nii.gz": b"\x1f\x8b labels", "scan_run.json": b'{"warnings": []}'}


class Service(BaseHTTPRequestHandler):
    """Answers every upload with the same parcellation."""

    def do_POST(self) -> None:
        """Read the upload and send the files."""
        self.rfile.read(int(self.headers["content-length"]))
        body = io.BytesIO()
        with zipfile.ZipFile(body, "w") as archive:
            for name, content in FILES.items():
                archive.writestr(name, content)
        self.send_response(200)
        self.send_header("content-length", str(len(body.getvalue())))
        self.end_headers()
        self.wfile.write(body.getvalue())

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def check_http() -> None:
    """Send one request, and check what was imported for it."""
    server = HTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Client(f"http://127.0.0.1:{server.server_port}") as client:
        answer = client.parcellate(b"a scan")
    server.shutdown()
    assert answer.dseg == FILES["scan_dseg.nii.gz"]
    assert answer.run == {"warnings": []}
    assert not HEAVY & {*sys.modules}, HEAVY & {*sys.modules}


def check_grpc(installed: bool) -> None:
    """Open the transport over gRPC, or check that the error names the missing extra."""
    try:
        with Client("grpc://127.0.0.1:9", retries=Retries(times=0)) as client:
            assert client.ready() is False
        assert installed
    except ConfigError as error:
        assert not installed, error
        assert "[grpc]'" in error.remedy, error


check_http()
check_grpc("--grpc" in sys.argv)
print(json.dumps({"python": sys.version.split()[0], "client": "answers"}))
