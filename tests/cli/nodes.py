"""Nodes on one machine: each a network namespace and a /dev/shm of its own, joined by a bridge.

The bridge is the first node's. A node lasts as long as its holder, a process that ends with the test's.
"""

import os
import shutil
import subprocess

from support import skip_or_fail

TOOLS = ("unshare", "nsenter", "ip", "tc")


class Unavailable(Exception):
    """There are no such namespaces to be had here."""


class Node:
    def __init__(self, number, megabytes):
        self.number = number
        self.address = f"10.77.0.{number}"
        script = (
            f"mount -t tmpfs -o size={megabytes}m tmpfs /dev/shm && ip link set lo up && echo here && exec cat"
        )
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self.holder.stdout.readline() != "here\n":
            why = self.holder.communicate()[1].strip()
            raise Unavailable(why)
        self.enter = ["nsenter", f"--target={self.holder.pid}", "--net", "--mount", "--"]
        self.shm = f"/proc/{self.holder.pid}/root/dev/shm"

    def sh(self, script):
        done = subprocess.run([*self.enter, "sh", "-ec", script], capture_output=True, text=True)
        if done.returncode != 0:
            raise Unavailable(f"{script}: {done.stderr.strip()}")

    def received(self):
        """Bytes that have come to this node from others."""
        with open(f"/proc/{self.holder.pid}/net/dev") as file:
            return sum(int(line.split()[1]) for line in file if line.lstrip().startswith("eth0:"))

    def environment(self):
        """What a process of this node is started with."""
        return {**os.environ, "NCCL_HOSTID": self.address, "TENON_NCCL_SIM_ADDRESS": self.address}

    def end(self):
        self.holder.communicate()


class Network:
    """Nodes by number, from 1; `megabytes` is the size of each one's /dev/shm."""

    def __init__(self, *megabytes):
        self.nodes = {}
        try:
            for number, size in enumerate(megabytes, 1):
                self.nodes[number] = Node(number, size)
            self.connect()
        except BaseException:
            self.end()
            raise

    def connect(self):
        hub = self.nodes[1]
        hub.sh(
            "ip link add lan type bridge; ip addr add 10.77.0.1/24 dev lan; ip link set lan up\n"
            + "".join(
                f"ip link add to{n} type veth peer name eth0 netns {node.holder.pid}; ip link set to{n} master lan up\n"
                for n, node in self.others()
            )
        )
        for _, node in self.others():
            node.sh(f"ip addr add {node.address}/24 dev eth0; ip link set eth0 up")

    def others(self):
        return [(n, node) for n, node in self.nodes.items() if n != 1]

    def slow(self, rate):
        """Nothing goes to another node faster than that (in tc's words: 100mbit)."""
        for n, _ in self.others():
            self.nodes[1].sh(f"tc qdisc replace dev to{n} root tbf rate {rate} burst 64kb latency 100ms")

    def fast(self):
        for n, _ in self.others():
            self.nodes[1].sh(f"tc qdisc del dev to{n} root 2>/dev/null || true")

    def cut(self, number):
        self.nodes[1].sh(f"ip link set to{number} down")

    def mend(self, number):
        self.nodes[1].sh(f"ip link set to{number} up")

    def end(self):
        for node in self.nodes.values():
            node.end()


def not_here(what):
    skip_or_fail(f"nodes as namespaces are not to be had here: {what}")


def network(*megabytes):
    """A Network, where it can be had."""
    for tool in TOOLS:
        if not shutil.which(tool):
            not_here(f"there is no {tool}")
    try:
        return Network(*megabytes)
    except Unavailable as why:
        not_here(why)
