#!/usr/bin/env python3
"""Latency of honest clients, and memory of fastlb, while slow clients hold what they can.

    scripts/slow_clients.py target/release                       # 5 000 attackers, three rounds
    scripts/slow_clients.py --attackers 500 --rounds 1 target/release

Needs fastlb, origin and loadgen in the folder. Each round drives fastlb with honest clients at a
fixed rate (open loop), first alone, then beside attackers of four kinds in equal parts: a head, and
a body, of a byte now and then; a reader of a few bytes now and then; and one that has its answer
and never closes. Who is cut comes again at once, so that they are always as many. Then they stop to
come again, and close nothing: the time until fastlb has let go of all of them is taken.

The honest clients also ask the origin itself beside the attackers: what that costs is of the cores
that driver and origin share with them, and not of fastlb.

fastlb has the last core to itself, the driver, the origin and the attackers share the others;
driver and origin go before the attackers where the user may say so (root).
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from leaving import end_in_order

KINDS = ["slow head", "slow body", "slow reader", "never closing"]
# Time between two bytes of an attacker, and between two looks at who is due.
STEP_S = 2.0
LOOK_S = 0.05
# How long one that never closes keeps a connection that fastlb has closed its side of.
HELD_S = 4.0
# Long enough for a reader to be slow with, and short enough that 1 250 of them fit the memory.
READ_PATH = "/bytes/1048576"
READER_BUFFER_BYTES = 4096
# Connections that an attack opens at a time: the queue of a listener is not what is tested.
OPENS_PER_LOOK = 100
GONE_WITHIN_S = 60
# Idle connections to the one backend that fastlb keeps, and some for what comes and goes.
POOLED = 128 + 8
PRIORITY = 10


class Attacker:
    """One connection after the other, all of one kind."""

    def __init__(self, kind, number, address):
        self.kind, self.address = kind, address
        self.source = (f"127.2.{number // 250}.{number % 250 + 1}", 0)
        self.socket, self.since, self.ended = None, 0.0, False

    def open(self, epoll, by_fd):
        self.socket = socket.socket()
        if self.kind == "slow reader":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READER_BUFFER_BYTES)
        self.socket.bind(self.source)
        self.socket.setblocking(False)
        self.socket.connect_ex(self.address)
        self.since, self.ended = time.monotonic(), False
        by_fd[self.socket.fileno()] = self
        epoll.register(self.socket, select.EPOLLOUT | select.EPOLLRDHUP)

    def begin(self, epoll):
        """Says the first words, once it is connected."""
        first = {
            "slow head": "GET / HTTP/1.1\r\nHost: a\r\nX: ",
            "slow body": "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n",
            "slow reader": f"GET {READ_PATH} HTTP/1.1\r\nHost: a\r\n\r\n",
            "never closing": "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        }
        epoll.modify(self.socket, select.EPOLLRDHUP)
        with contextlib.suppress(OSError):
            self.socket.send(first[self.kind].encode())

    def step(self):
        with contextlib.suppress(OSError):
            if self.kind in ("slow head", "slow body"):
                self.socket.send(b"x")
            elif self.kind == "slow reader":
                self.socket.recv(16)


def attack(address, count, kinds, pipe):
    """Keeps `count` attackers inside until told to stop; then tells how long each kind held out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Packets wait for the kernel's own thread where there are many, and that one would wait for us.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    epoll, by_fd, due = select.epoll(), {}, 0.0
    attackers = [Attacker(kinds[n % len(kinds)], n, address) for n in range(count)]
    closed, lives, come_again = list(attackers), {kind: [] for kind in kinds}, True
    while True:
        if pipe.poll(LOOK_S):
            if pipe.recv() == "stop":
                come_again = False
                pipe.send({kind: summary(times) for kind, times in lives.items()})
            else:
                return
        if come_again:
            for attacker in closed[:OPENS_PER_LOOK]:
                attacker.open(epoll, by_fd)
            del closed[:OPENS_PER_LOOK]
        for fd, event in epoll.poll(0, count + 1):
            attacker = by_fd[fd]
            if event & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
                lives[attacker.kind].append(time.monotonic() - attacker.since)
                epoll.unregister(fd)
                attacker.ended = True
                if come_again and attacker.kind != "never closing":
                    attacker.socket.close()
                    closed.append(attacker)
            elif event & select.EPOLLOUT:
                attacker.begin(epoll)
        due += count * LOOK_S / STEP_S
        while due >= 1:
            due -= 1
            attackers.append(attackers.pop(0))
            attacker = attackers[-1]
            if attacker.ended and come_again and attacker.kind == "never closing":
                # It never learns when it was let go of.
                if time.monotonic() > attacker.since + HELD_S:
                    attacker.ended = False
                    attacker.socket.close()
                    closed.append(attacker)
            elif attacker.socket and not attacker.ended:
                attacker.step()


def summary(times):
    return {"ended": len(times), "longest_s": round(max(times, default=0), 1)}


class Peak:
    """The largest resident memory, and the most descriptors, of a process while this is open."""

    def __init__(self, pid):
        self.pid, self.kib, self.descriptors, self.over = pid, 0, 0, threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def look(self):
        while not self.over.wait(0.2):
            self.kib = max(self.kib, resident_kib(self.pid))
            self.descriptors = max(self.descriptors, descriptors(self.pid))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def resident_kib(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def pinned(cores, priority=False):
    words = ["taskset", "-c", cores]
    chrt = ["chrt", "--fifo", str(PRIORITY)]
    if priority and subprocess.run([*chrt, "true"], stderr=subprocess.DEVNULL).returncode == 0:
        words += chrt
    return words


def start(words, stack, log):
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    stack.callback(stop, process)
    for line in process.stdout:
        log.write(line)
        if "listening on " in line:
            threading.Thread(target=lambda: log.writelines(process.stdout), daemon=True).start()
            return process, line.split("listening on ")[1].split()[0]
    raise SystemExit(f"{words} did not start")


def stop(process):
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def drive(options, address, out):
    words = [*pinned(options.others, True), f"{options.bin}/loadgen", "--connections", "64"]
    words += ["--rate", str(options.rate), "--duration", f"{options.seconds}s", "--warm-up", "1s"]
    words += ["--expect-length", "100", "--out", out, f"http://{address}/"]
    subprocess.run(words, stdout=subprocess.DEVNULL, timeout=options.seconds + 60)
    with open(f"{out}/result.json") as result:
        result = json.load(result)
    latency = {key: result["latency_ms"][key] for key in ("p50", "p99", "p99.9", "max")}
    return {**latency, "good": result["good"], "failed": result["failed"]}


def one_round(options, proxy, address, backend, out):
    pid, before_kib, before = proxy.pid, resident_kib(proxy.pid), descriptors(proxy.pid)
    quiet = drive(options, address, f"{out}/quiet")
    ours, theirs = multiprocessing.Pipe()
    host, port = address.rsplit(":", 1)
    arguments = ((host, int(port)), options.attackers, options.kinds, theirs)
    attackers = multiprocessing.Process(target=attack, args=arguments, daemon=True)
    attackers.start()
    with Peak(pid) as peak:
        deadline = time.monotonic() + GONE_WITHIN_S
        while descriptors(pid) < before + options.attackers and time.monotonic() < deadline:
            time.sleep(0.1)
        under_attack = drive(options, address, f"{out}/attack")
        direct = drive(options, backend, f"{out}/direct")
    ours.send("stop")
    lives = ours.recv()
    stopped = time.monotonic()
    while descriptors(pid) > before + POOLED:
        if time.monotonic() > stopped + GONE_WITHIN_S:
            raise SystemExit(f"{descriptors(pid)} descriptors are still open, {before} were")
        time.sleep(0.1)
    gone_s = time.monotonic() - stopped
    time.sleep(1)
    after_kib = resident_kib(pid)
    ours.send("end")
    attackers.join()
    return {
        "quiet": quiet,
        "attack": under_attack,
        "direct": direct,
        "ratio_p99": round(under_attack["p99"] / quiet["p99"], 2),
        "descriptors_most": peak.descriptors,
        "attackers": lives,
        "gone_s": round(gone_s, 1),
        "resident_kib": {"before": before_kib, "most": peak.kib, "after": after_kib},
    }


def environment(options, command):
    def said(*words):
        return subprocess.run(words, capture_output=True, text=True).stdout.strip()

    cpu = [line for line in said("lscpu").splitlines() if line.startswith("Model name")]
    here = os.path.dirname(os.path.abspath(__file__))
    with open("/proc/sys/net/ipv4/tcp_congestion_control") as congestion:
        congestion = congestion.read().strip()
    return {
        "command": " ".join(sys.argv),
        "fastlb": command,
        "version": said(f"{options.bin}/fastlb", "--version"),
        "commit": said("git", "-C", here, "rev-parse", "HEAD"),
        "cpu": cpu[0].split(":")[1].strip() if cpu else "unknown",
        "cores": os.cpu_count(),
        "kernel": os.uname().release,
        "congestion_control": congestion,
    }


def show(number, result):
    quiet, beside, memory = result["quiet"], result["attack"], result["resident_kib"]
    print(f"round {number}: honest p99 {quiet['p99']:.3f} ms alone, {beside['p99']:.3f} ms beside")
    print(f"  the origin itself beside them: {result['direct']['p99']:.3f} ms")
    print(f"  ratio {result['ratio_p99']}, failed {quiet['failed']} and {beside['failed']}")
    print(f"  at most {result['descriptors_most']} descriptors, gone after {result['gone_s']} s")
    print(f"  resident {memory['before']} KiB, at most {memory['most']}, then {memory['after']}")
    for kind, life in result["attackers"].items():
        print(f"  {kind}: {life['ended']} cut, the longest after {life['longest_s']} s", flush=True)


def kinds(words):
    chosen = words.split(",")
    if unknown := [word for word in chosen if word not in KINDS]:
        raise argparse.ArgumentTypeError(f"{unknown} are not among {KINDS}")
    return chosen


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--attackers", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--rate", type=int, default=2_000, help="honest requests a second")
    parser.add_argument("--timeout", default="3s", help="for a head, an idle client and a body")
    parser.add_argument("--kinds", type=kinds, default=KINDS, help="of attackers, by commas")
    parser.add_argument("--io", default="auto")
    parser.add_argument("--out", help="a new or an empty folder for rounds.json")
    parser.add_argument("bin", help="where fastlb, origin and loadgen are")
    options = parser.parse_args()
    if options.out:
        try:
            os.makedirs(options.out, exist_ok=True)
            if os.listdir(options.out):
                parser.error(f"--out: {options.out} is not empty")
        except OSError as error:
            parser.error(f"--out: {error}")
    end_in_order()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    last = os.cpu_count() - 1
    options.others = f"0-{max(last - 1, 0)}"
    with contextlib.ExitStack() as stack:
        work = tempfile.mkdtemp()
        stack.callback(shutil.rmtree, work)
        log = stack.enter_context(open(f"{work}/log", "w"))
        origin = [*pinned(options.others, True), f"{options.bin}/origin"]
        _, backend = start(origin, stack, log)
        flags = ["--listen", "127.0.0.1:0", "--cores", "1", "--io", options.io, "--admin", "off"]
        for name in ("header", "idle", "body-idle"):
            flags += [f"--{name}-timeout", options.timeout]
        command = [f"{options.bin}/fastlb", *flags, "--backends", backend]
        proxy, address = start([*pinned(str(last)), *command], stack, log)
        facts, rounds = environment(options, " ".join(command)), []
        os.sched_setaffinity(0, range(max(last, 1)))
        for number in range(1, options.rounds + 1):
            rounds.append(one_round(options, proxy, address, backend, f"{work}/{number}"))
            show(number, rounds[-1])
        ratio = statistics.median(result["ratio_p99"] for result in rounds)
        print(f"p99 beside {options.attackers} attackers to p99 alone: {ratio} (median)")
        if options.out:
            with open(f"{options.out}/rounds.json", "w") as out:
                json.dump({"environment": facts, "rounds": rounds}, out, indent=1)
                out.write("\n")


if __name__ == "__main__":
    main()
