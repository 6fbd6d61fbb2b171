#!/usr/bin/env python3
"""Stands in for aerostatd in tests of the commands that talk to it: it answers at the manager's
socket, counts what it admits, and manages nothing. What it was asked is in requests.jsonl beside the
socket. Where a file status.json is there too, its `host` and `vms` are what `status` tells.

    aerostatd [--memory SIZE] [--swap-size SIZE]
"""

import json
import os
import socket
import sys


class Manager:
    def __init__(self, memory):
        self.memory = memory
        self.admitted = {}

    def admit(self, request):
        need = request["min"] + request["overhead"]
        free = self.memory - sum(self.admitted.values())
        if need > free:
            return {"ok": False, "code": "no memory",
                    "error": f"{(need - free) >> 20} MiB of memory short"}
        self.admitted[request["name"]] = need
        return {"ok": True}

    def answer(self, request):
        kind = request["request"]
        if kind == "admit":
            return self.admit(request)
        if kind == "status" and os.path.exists("status.json"):
            with open("status.json", encoding="utf-8") as stream:
                return {"ok": True, **json.load(stream)}
        if kind == "status":
            return {"ok": True, "host": {"memory": self.memory, "free": 1 << 20, "state": "high"},
                    "vms": [{"name": name, "target": 3 << 20, "group": "g", "shares": 77,
                             "min": 1 << 20} for name in self.admitted]}
        if kind == "set" and request["name"] not in self.admitted:
            return {"ok": False, "code": "not found", "error": f"no VM is named {request['name']}"}
        return {"ok": True}


def main():
    folder = os.path.join(os.environ["XDG_RUNTIME_DIR"], "aerostat")
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    manager = Manager(int(arguments.get("--memory", 1 << 40)))
    if manager.memory < 8 << 20:
        print("aerostatd: that is not enough memory", file=sys.stderr, flush=True)
        sys.exit(2)
    os.chdir(folder)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # As src/control/folder.c does: a socket has its name when it listens, not before.
    listener.bind(".manager")
    listener.listen()
    os.rename(".manager", "manager.sock")
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line)
                with open("requests.jsonl", "ab") as log:
                    log.write(line)
                reply = {"version": 1, **manager.answer(request)}
                connection.sendall(json.dumps(reply).encode() + b"\n")
                if request["request"] == "quit":
                    os.unlink("manager.sock")
                    sys.exit(0)


if __name__ == "__main__":
    main()
