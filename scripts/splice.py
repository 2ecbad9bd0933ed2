#!/usr/bin/env python3
"""CPU time of the proxy per gigabyte of response bodies, for builds that differ in their limits.

    scripts/splice.py --sizes 131072,1048576 copy=/tmp/copy/fastlb spliced=target/release/fastlb

Needs the program origin beside the first build, or where --origin says. The rounds of the builds
are interleaved. The proxy has core 1, origin and clients have core 0.
"""

import argparse
import os
import re
import socket
import subprocess
import threading
import time
from pathlib import Path

from leaving import end_in_order

DRIVER_CORE, PROXY_CORE = 0, 1
# Longest wait for a byte, and for a program to listen or to end.
TIMEOUT_S = 10


class Program:
    """A program on a core of its own, from the line that says where it listens."""

    def __init__(self, core, command):
        self.process = subprocess.Popen(["taskset", "-c", str(core), *command],
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        # One that says nothing is ended, and with it its output.
        limit = threading.Timer(TIMEOUT_S, self.process.kill)
        limit.start()
        try:
            self.address = self.announced_address()
        except BaseException:
            self.stop()
            raise
        finally:
            limit.cancel()
        if self.address is None:
            self.stop()
            raise SystemExit(f"{command[0]} did not start")

    def announced_address(self):
        for line in self.process.stdout:
            found = re.search(r"listening on ([\d.]+):(\d+)", line)
            if found:
                return found[1], int(found[2])
        return None

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def cpu_ms(self):
        """CPU time of all its threads, those that have ended among them: its CPU clock."""
        return time.clock_gettime_ns(~self.process.pid << 3 | 2) / 1e6


def fetch(address, size, count, got):
    """Asks so often for so much; puts the bytes of bodies that came into `got`."""
    buffer = bytearray(1 << 20)
    request = f"GET /bytes/{size} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    with socket.create_connection(address, timeout=TIMEOUT_S) as connection:
        for _ in range(count):
            connection.sendall(request)
            received = connection.recv_into(buffer)
            head = buffer.find(b"\r\n\r\n", 0, received) + 4
            left = size - (received - head)
            while received and left > 0:
                received = connection.recv_into(buffer)
                left -= received
            if head < 4 or left:
                return
            got.append(size)


def fetch_all(address, size, total, clients):
    """The gigabytes that came; fails where that is not all."""
    count, got = max(1, total // size // clients), []
    threads = [
        threading.Thread(target=fetch, args=(address, size, count, got)) for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(got) != count * clients:
        raise SystemExit(f"{len(got)} of {count * clients} bodies came")
    return sum(got) / 1e9


def one_round(binary, options, size):
    programs = []
    try:
        origin = Program(DRIVER_CORE, [options.origin])
        programs.append(origin)
        flags = ["--listen", "127.0.0.1:0", "--cores", "1", "--io", options.io]
        flags += ["--mode", options.mode, "--backends", "{}:{}".format(*origin.address)]
        proxy = Program(PROXY_CORE, [binary, *flags])
        programs.append(proxy)
        fetch_all(proxy.address, size, options.total // 8, options.clients)
        used, began = proxy.cpu_ms(), time.time()
        gigabytes = fetch_all(proxy.address, size, options.total, options.clients)
        return (proxy.cpu_ms() - used) / gigabytes, gigabytes / (time.time() - began)
    finally:
        for program in programs:
            program.stop()


def sizes(text):
    return [int(size) for size in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--io", default="io-uring")
    parser.add_argument("--mode", default="http")
    parser.add_argument("--sizes", type=sizes, default="131072,1048576,16000000",
                        metavar="BYTES,..")
    parser.add_argument("--total", type=int, default=600_000_000)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--origin", help="default: origin beside the first build")
    parser.add_argument("builds", nargs="+", metavar="NAME=BINARY")
    options = parser.parse_args()
    builds = [build.split("=", 1) for build in options.builds]
    if unnamed := [build for build in options.builds if "=" not in build]:
        parser.error(f"{unnamed[0]}: write NAME=BINARY")
    options.origin = options.origin or str(Path(builds[0][1]).with_name("origin"))
    os.sched_setaffinity(0, {DRIVER_CORE})
    end_in_order()
    for size in options.sizes:
        rounds = {name: [] for name, _ in builds}
        for _ in range(options.rounds):
            for name, binary in builds:
                rounds[name].append(one_round(binary, options, size))
        for name, results in rounds.items():
            costs = [round(cost) for cost, _ in sorted(results)]
            best = max(rate for _, rate in results)
            print(options.io, options.mode, size, name, "ms/GB", costs, f"GB/s {best:.2f}")


if __name__ == "__main__":
    main()
