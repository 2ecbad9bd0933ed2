#!/usr/bin/env python3
"""CPU time of the proxy per gigabyte of response bodies, for builds that differ in their limits.

    scripts/splice.py --sizes 131072,1048576 copy=/tmp/copy/fastlb spliced=target/release/fastlb

Needs target/release/origin. The rounds of the builds are interleaved.
"""

import argparse
import os
import re
import socket
import subprocess
import threading
import time

ORIGIN = "target/release/origin"


def start(command):
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in process.stdout:
        found = re.search(r"listening on ([\d.]+):(\d+)", line)
        if found:
            return process, (found[1], int(found[2]))
    raise SystemExit(f"{command[0]} did not start")


def cpu_ms(process):
    with open(f"/proc/{process.pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def fetch(address, size, count):
    connection = socket.create_connection(address)
    buffer = bytearray(1 << 20)
    request = f"GET /bytes/{size} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    for _ in range(count):
        connection.sendall(request)
        got, wanted = 0, None
        while wanted is None or got < wanted:
            received = connection.recv_into(buffer)
            if received == 0:
                raise SystemExit("the proxy closed")
            if wanted is None:
                wanted = buffer.find(b"\r\n\r\n") + 4 + size
            got += received
    connection.close()


def fetch_all(address, size, total, clients):
    count = max(1, total // size // clients)
    threads = [
        threading.Thread(target=fetch, args=(address, size, count)) for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count * clients * size / 1e9


def one_round(binary, options, size):
    origin, behind = start([ORIGIN])
    flags = ["--listen", "127.0.0.1:0", "--cores", "1", "--io", options.io, "--mode", options.mode]
    proxy, address = start([binary, *flags, "--backends", f"{behind[0]}:{behind[1]}"])
    fetch_all(address, size, options.total // 8, options.clients)
    used, began = cpu_ms(proxy), time.time()
    gigabytes = fetch_all(address, size, options.total, options.clients)
    used, took = cpu_ms(proxy) - used, time.time() - began
    for process in (proxy, origin):
        process.terminate()
        process.wait()
    return used / gigabytes, gigabytes / took


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--io", default="io-uring")
    parser.add_argument("--mode", default="http")
    parser.add_argument("--sizes", default="131072,1048576,16000000")
    parser.add_argument("--total", type=int, default=600_000_000)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("builds", nargs="+", metavar="NAME=BINARY")
    options = parser.parse_args()
    builds = [build.split("=", 1) for build in options.builds]
    for size in map(int, options.sizes.split(",")):
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
