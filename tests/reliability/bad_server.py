"""A server on this machine that answers in many wrong ways."""

import hashlib
import http.server
import importlib
import os
import socket
import struct
import threading
from contextlib import contextmanager
from types import SimpleNamespace

# `download` is the function in the package's namespace.
download_module = importlib.import_module("nst_jax.networks.weights.download")


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers each path in its own wrong way; ``/good`` in the right one."""

    keras_file = b""
    done = threading.Event()
    pair = threading.Barrier(2)
    signum = 0

    def do_GET(self):
        name = self.path[1:].replace("-", "_")
        getattr(self, f"get_{name}", self.get_status)()

    def get_status(self):
        self.send_error(int(self.path[1:]))

    def send(self, body, *, length=None, status=200, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def get_good(self):
        self.send(self.keras_file)

    def get_slow_start(self):
        self.done.wait(10)

    def get_stall(self):
        self.send(self.keras_file[:1000], length=len(self.keras_file))
        self.done.wait(10)

    def get_truncated(self):
        self.send(self.keras_file[: len(self.keras_file) // 2], length=len(self.keras_file))

    def get_length_too_long(self):
        self.send(self.keras_file, length=len(self.keras_file) + 1000)

    def get_wrong_bytes(self):
        self.send(self.keras_file[:-1] + b"?")

    def get_empty(self):
        self.send(b"")

    def get_web_page(self):
        self.send(b"<!DOCTYPE html><p>Please log in", Content_Type="text/html")

    def get_loop(self):
        self.send(b"", status=302, Location="/loop")

    def get_to_file(self):
        self.send(b"", status=302, Location="file:///etc/hosts")

    def get_to_other_host(self):
        self.send(b"", status=302, Location=f"http://localhost:{self.server.server_port}/good")

    def get_signal(self):
        self.send(self.keras_file[:1000], length=len(self.keras_file))
        self.wfile.flush()
        os.kill(os.getpid(), self.signum)
        self.done.wait(10)

    def get_both(self):
        self.pair.wait(60)
        self.get_good()

    def get_reset(self):
        self.send(self.keras_file[:1000], length=len(self.keras_file))
        self.wfile.flush()
        linger = struct.pack("ii", 1, 0)  # The connection is reset, not closed.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.wfile = self.rfile  # Nothing is written to it any more.

    def log_message(self, *_):
        pass


@contextmanager
def serve(keras_file):
    """Serve until the block ends; yield the address and the hash of the right file."""
    Handler.keras_file = keras_file
    Handler.done, Handler.pair = threading.Event(), threading.Barrier(2)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.handle_error = lambda *_: None
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        url, md5 = f"http://127.0.0.1:{httpd.server_port}", hashlib.md5(keras_file).hexdigest()
        yield SimpleNamespace(url=url, md5=md5)
        Handler.done.set()
        httpd.shutdown()
