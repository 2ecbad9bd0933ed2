#!/usr/bin/env python3
"""CPU time of the control thread, as a share of one core, while it checks large fleets.

    scripts/checks.py --fleet up=100,refusing=900 --fleet up=1000 target/release/fastlb

Each backend has a loopback address of its own. One that is up takes connections and closes them,
one that is refusing is bound but does not listen, one that is silent has a full queue, so that the
kernel drops whatever else comes. At the end of a run some that were up stop to listen, and the log
tells how long it took until the last of them was found dead.
"""

import argparse
import ipaddress
import os
import re
import resource
import socket
import subprocess
import threading
import time

from leaving import end_in_order

FLEETS = ["up=100,refusing=900", "up=1000"]
KINDS = ["up", "refusing", "silent"]
FIRST_ADDRESS = ipaddress.IPv4Address("127.1.0.1")
ACCEPT_EVERY_S = 1
DEATHS = 5
FOUND_WITHIN_S = 120


class Fleet:
    def __init__(self, counts):
        self.sockets, self.up, self.addresses = [], [], []
        for kind in KINDS:
            for _ in range(counts.get(kind, 0)):
                self.add(kind)
        if counts.get("silent"):
            self.check_silent(self.sockets[-1])
        threading.Thread(target=self.accept, daemon=True).start()

    def add(self, kind):
        bound = socket.socket()
        bound.bind((str(FIRST_ADDRESS + len(self.addresses)), 0))
        self.sockets.append(bound)
        self.addresses.append("{}:{}".format(*bound.getsockname()))
        if kind == "up":
            bound.listen(4096)
            bound.setblocking(False)
            self.up.append(bound)
        elif kind == "silent":
            bound.listen(0)
            self.sockets.append(socket.create_connection(bound.getsockname()))

    def check_silent(self, filler):
        try:
            socket.create_connection(filler.getpeername(), timeout=0.5).close()
        except TimeoutError:
            return
        raise SystemExit("a queue that should be full takes connections")

    def accept(self):
        # Now and then: one that were woken by each connection would be so at the checks' cost.
        while self.up:
            time.sleep(ACCEPT_EVERY_S)
            for listener in list(self.up):
                try:
                    while True:
                        listener.accept()[0].close()
                except OSError:
                    # Nobody waits any more, or it has just been closed.
                    pass

    def kill(self):
        """Has some stop to listen; their addresses."""
        dead, self.up = self.up[-DEATHS:], self.up[:-DEATHS]
        addresses = ["{}:{}".format(*bound.getsockname()) for bound in dead]
        for bound in dead:
            bound.close()
        return addresses

    def close(self):
        self.up = []
        for each in self.sockets:
            each.close()


class Proxy:
    def __init__(self, binary, options, backends):
        flags = ["--listen", "127.0.0.1:0", "--cores", "1", "--io", options.io]
        flags += ["--admin", "off", "--health", "tcp", "--backends", ",".join(backends)]
        self.process = subprocess.Popen([binary, *flags], stderr=subprocess.PIPE, text=True)
        self.down, self.listening = {}, threading.Event()
        threading.Thread(target=self.read, daemon=True).start()
        try:
            if not self.listening.wait(timeout=10):
                raise SystemExit(f"{binary} did not start")
        except BaseException:
            self.stop()
            raise

    def read(self):
        for line in self.process.stderr:
            if "listening on " in line:
                self.listening.set()
            found = re.search(r"backend (\S+) is down", line)
            if found:
                self.down[found[1]] = time.time()

    def control_ms(self):
        with open(f"{self.control_thread()}/schedstat") as times:
            return int(times.read().split()[0]) / 1e6

    def control_thread(self):
        tasks = f"/proc/{self.process.pid}/task"
        # A thread gives itself its name, a moment after its start.
        for _ in range(100):
            for task in os.listdir(tasks):
                with open(f"{tasks}/{task}/comm") as comm:
                    if comm.read() == "control\n":
                        return f"{tasks}/{task}"
            time.sleep(0.01)
        raise SystemExit("there is no control thread")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def one_run(binary, options, name):
    fleet = Fleet(counts(name))
    proxy = Proxy(binary, options, fleet.addresses)
    try:
        used, began = proxy.control_ms(), time.time()
        for span in options.spans:
            time.sleep(span)
            used_before, used = used, proxy.control_ms()
            at, share = time.time() - began, (used - used_before) / span / 10
            print(f"{name}  until {at:4.0f} s: {share:.2f} % of a core", flush=True)
        print(f"{name}  found dead after {found_dead(fleet, proxy):.1f} s", flush=True)
    finally:
        proxy.stop()
        fleet.close()


def counts(name):
    """How many of each kind a fleet has, from its name."""
    pairs = [part.split("=") for part in name.split(",")]
    if any(len(pair) != 2 or pair[0] not in KINDS or not pair[1].isdigit() for pair in pairs):
        raise argparse.ArgumentTypeError(f"write KIND=COUNT,.. with the kinds {KINDS}")
    return {kind: int(count) for kind, count in pairs}


def fleet_name(text):
    counts(text)
    return text


def spans(text):
    return [float(span) for span in text.split(",")]


def found_dead(fleet, proxy):
    killed, addresses = time.time(), fleet.kill()
    while any(address not in proxy.down for address in addresses):
        if time.time() > killed + FOUND_WITHIN_S:
            raise SystemExit(f"not found within {FOUND_WITHIN_S} s")
        time.sleep(0.05)
    return max(proxy.down[address] for address in addresses) - killed


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--io", default="auto")
    parser.add_argument("--fleet", type=fleet_name, action="append", metavar="KIND=COUNT,..")
    parser.add_argument("--spans", type=spans, default="2,2,2,2,2,10,10", metavar="SECONDS,..")
    parser.add_argument("binary")
    options = parser.parse_args()
    if not os.access(options.binary, os.X_OK):
        parser.error(f"{options.binary} is no program")
    end_in_order()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for name in options.fleet or FLEETS:
        one_run(options.binary, options, name)


if __name__ == "__main__":
    main()
