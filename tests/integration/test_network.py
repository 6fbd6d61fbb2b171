#!/usr/bin/env python3
"""User networking: a file fetched from a server on this machine's loopback, and a server in the
guest that is reached through a forwarded port; both with checksums on both sides."""

import hashlib
import http.server
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.request

import harness
from harness import Vm


class Handler(http.server.BaseHTTPRequestHandler):
    """GET gives the server's data; PUT or POST replaces what it has received."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.data)))
        self.end_headers()
        self.wfile.write(self.server.data)

    def do_POST(self):
        self.server.received = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetch(port, path, seconds=60):
    """GET from the guest, tried again until its server is up."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=30) as answer:
                return answer.read()
        except (OSError, urllib.error.URLError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


class Network(harness.TestCase):
    def test_fetch_send_and_forward(self):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.data = os.urandom(1 << 20)
        server.received = None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        url = f"http://10.0.2.2:{server.server_port}"
        port = free_port()

        commands = ("mkdir /tmp/www; cd /tmp/www"
                    f"; wget -q -O data {url}/data && echo fetched $(sha256sum < data)"
                    "; head -c 300000 /dev/urandom > mine; echo mine $(sha256sum < mine)"
                    "; mkdir cgi-bin; httpd -p 8080 -h /tmp/www; echo serving"
                    "; read line; nslookup localhost 10.0.2.3 > /dev/null; ip -o -4 address"
                    f"; wget -q -O - --post-data=hello-from-the-guest {url}/post; echo done")
        with Vm([*harness.boot_arguments(commands),
                 "--net", f"user,hostfwd=tcp:{port}-8080"],
                stdin=harness.subprocess.PIPE) as vm:
            ours = hashlib.sha256(server.data).hexdigest()
            vm.expect(f"^fetched {ours} ")
            theirs = vm.expect(r"^mine ([0-9a-f]{64}) ").group(1)
            vm.expect("^serving$")
            self.assertEqual(hashlib.sha256(fetch(port, "mine")).hexdigest(), theirs)
            self.assertEqual(fetch(port, "data"), server.data)
            self.parallel(port, theirs)
            vm.send("\n")
            self.assertEqual((vm.wait(), vm.errors), (harness.STATUS_OK, ""), vm.report())
            self.assertIn("10.0.2.15/24", vm.console)
            self.assertTrue(re.search("^done$", vm.console, re.MULTILINE))
        self.assertEqual(server.received, b"hello-from-the-guest")

    def parallel(self, port, digest):
        """Several connections at once."""
        results = []

        def one():
            results.append(hashlib.sha256(fetch(port, "mine")).hexdigest())

        threads = [threading.Thread(target=one) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        self.assertEqual(results, [digest] * 4)

    def test_none_is_the_default(self):
        console = self.check_boot("ls /sys/class/net")
        self.assertRegex(console, r"(?m)^lo$")
        self.assertNotIn("eth0", console)


if __name__ == "__main__":
    harness.main()
