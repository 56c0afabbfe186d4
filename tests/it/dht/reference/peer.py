#!/usr/bin/env python3
"""A plain peer of the DHT ring, from the specification alone; nothing but the standard library.

    peer.py                   starts a ring of its own
    peer.py PEER_IP PEER_PORT joins the ring of that peer

It says `listening IP:PORT` once it is a member. A line `leave` on stdin makes it leave by DISCONNECT and say
`left`; the end of stdin ends it at once. What other people's peers do, it does as well: a thread a connection,
one command per connection, as joiner its own address before UPDATE_PREV and no accept until the join is over,
the whole map handed over and kept, whoever says UPDATE_PREV believed, whoever says DISCONNECT taken for its
next, and its next probed with `TEST`.
"""

import hashlib
import os
import socket
import sys
import threading
import time

RING = 1 << 160
PATIENCE_S = 10
PROBE_EVERY_S = 1


def id_of(text):
    return int.from_bytes(hashlib.sha1(text.encode()).digest(), "big")


class Conversation:
    """One connection: lines, numbers, bytes."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(PATIENCE_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.source = sock.makefile("rb")

    @classmethod
    def dial(cls, addr):
        host, port = addr.split(":")
        return cls(socket.create_connection((host, int(port)), timeout=PATIENCE_S))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.source.close()
        self.sock.close()

    def line(self):
        line = self.source.readline(257)
        if not line.endswith(b"\n"):
            raise EOFError("no whole line")
        return line[:-1].decode("ascii")

    def number(self):
        text = self.line()
        if not (text.isascii() and text.isdigit()):
            raise ValueError("not digits")
        return int(text)

    def data(self, length):
        got = self.source.read(length)
        if len(got) != length:
            raise EOFError("the bytes end early")
        return got

    def ack(self):
        return self.line() == "1"

    def entries(self):
        return {self.number(): self.data(self.number()) for _ in range(self.number())}

    def say(self, *lines):
        self.sock.sendall("".join(f"{line}\n" for line in lines).encode("ascii"))

    def say_value(self, value):
        self.say(len(value))
        self.sock.sendall(value)

    def say_entries(self, entries):
        self.say(len(entries))
        for key, value in entries.items():
            self.say(key)
            self.say_value(value)


def ask(addr, *lines):
    """One line for one command."""
    with Conversation.dial(addr) as peer:
        peer.say(*lines)
        return peer.line()


def locate(contact, key):
    seen = set()
    while contact not in seen:
        seen.add(contact)
        contact = ask(contact, "LOCATE", key)
        if ask(contact, "LOCATE", key) == contact:
            return contact
    raise OSError("LOCATE goes round in circles")


class Peer:
    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.addr = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.id = id_of(self.addr)
        self.next = self.prev = self.addr
        self.map = {}
        self.left = False
        self.leaving = False
        # While entries move, writes and other hand-overs wait.
        self.moving = False
        self.state = threading.Condition()

    # With the lock held.

    def owns(self, key):
        if self.left:
            return False
        size = (id_of(self.next) - self.id) % RING or RING
        return (key - self.id) % RING < size

    def closest(self, key):
        if self.owns(key):
            return self.addr
        known = {self.next, self.prev} - ({self.addr} if self.left else set())
        return min(known or {self.prev}, key=lambda addr: (key - id_of(addr)) % RING)

    # Hand-overs, one at a time.

    def begin(self):
        with self.state:
            if not self.state.wait_for(lambda: not self.moving, PATIENCE_S):
                raise TimeoutError("a hand-over takes too long")
            self.moving = True

    def end(self):
        with self.state:
            self.moving = False
            self.state.notify_all()

    # What others ask for.

    def serve(self, sock):
        try:
            with Conversation(sock) as peer:
                handler = getattr(self, "on_" + peer.line().lower(), None)
                if handler:
                    handler(peer)
        except (OSError, EOFError, ValueError):
            pass

    def on_locate(self, peer):
        key = peer.number()
        with self.state:
            answer = self.closest(key)
        peer.say(answer)

    def on_contains(self, peer):
        key = peer.number()
        with self.state:
            owned, has = self.owns(key), key in self.map
        peer.say(*([1, int(has)] if owned else [0]))

    def on_get(self, peer):
        key = peer.number()
        with self.state:
            owned, value = self.owns(key), self.map.get(key, b"")
        peer.say(int(owned))
        if owned:
            peer.say_value(value)

    def on_insert(self, peer):
        key = peer.number()
        with self.state:
            owned = self.owns(key)
        peer.say(int(owned))
        if owned:
            value = peer.data(peer.number())
            peer.say(int(self.write(lambda: self.map.__setitem__(key, value), key)))

    def on_remove(self, peer):
        key = peer.number()
        with self.state:
            owned = self.owns(key)
        peer.say(int(owned))
        if owned:
            peer.say(int(self.write(lambda: self.map.pop(key, None), key)))

    def write(self, change, key):
        with self.state:
            waited = self.state.wait_for(lambda: not self.moving, PATIENCE_S)
            if not waited or not self.owns(key):
                return False
            change()
            return True

    def on_update_prev(self, peer):
        addr = peer.line()
        with self.state:
            self.prev = addr
        peer.say(1)

    def on_connect(self, peer):
        joiner = peer.number()
        if self.leaving:
            return peer.say(0)
        self.begin()
        try:
            with self.state:
                mine = self.owns(joiner) and joiner != self.id
                everything, following = dict(self.map), self.next
            peer.say(int(mine))
            if not mine:
                return None
            peer.say_entries(everything)
            peer.say(following)
            try:
                addr = peer.line()
                if id_of(addr) != joiner:
                    raise ValueError("another address than announced")
            except (OSError, EOFError, ValueError):
                self.tell_next()
                raise
            with self.state:
                self.next = addr
        finally:
            self.end()
        return None

    def on_disconnect(self, peer):
        following = peer.line()
        entries = peer.entries()
        if self.leaving:
            return peer.say(0)
        self.begin()
        try:
            with self.state:
                self.map.update({k: v for k, v in entries.items() if not self.owns(k)})
                self.next = following
            self.tell_next()
            peer.say(1)
        finally:
            self.end()
        return None

    def tell_next(self):
        with self.state:
            following = self.next
            if following == self.addr:
                self.prev = self.addr
                return
        try:
            ask(following, "UPDATE_PREV", self.addr)
        except (OSError, EOFError):
            pass

    # What it does by itself.

    def join(self, contact):
        while True:
            with Conversation.dial(locate(contact, self.id)) as peer:
                peer.say("CONNECT", self.id)
                if not peer.ack():
                    continue
                self.map = peer.entries()
                self.next = peer.line()
                self.prev = "%s:%d" % peer.sock.getpeername()
                peer.say(self.addr)
            ask(self.next, "UPDATE_PREV", self.addr)
            return

    def leave(self):
        self.leaving = True
        self.begin()
        while self.next != self.addr:
            with self.state:
                everything, before = dict(self.map), self.prev
            try:
                with Conversation.dial(before) as peer:
                    peer.say("DISCONNECT", self.next)
                    peer.say_entries(everything)
                    if not peer.ack():
                        continue
                # What the one before us has done already, and does no harm.
                if self.next != before:
                    ask(self.next, "UPDATE_PREV", before)
                break
            except (OSError, EOFError):
                time.sleep(0.05)
        with self.state:
            self.left = True
        self.end()

    def accept(self):
        while True:
            sock, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def probe(self):
        while True:
            time.sleep(PROBE_EVERY_S)
            if self.next != self.addr:
                try:
                    with Conversation.dial(self.next) as peer:
                        peer.say("TEST")
                        peer.source.read()
                except OSError:
                    pass


def main():
    peer = Peer()
    if len(sys.argv) == 3:
        peer.join("%s:%s" % (sys.argv[1], sys.argv[2]))
    for work in (peer.accept, peer.probe):
        threading.Thread(target=work, daemon=True).start()
    print("listening", peer.addr, flush=True)
    for line in sys.stdin:
        if line.strip() == "leave":
            peer.leave()
            print("left", flush=True)
            break
    # Threads that still talk end here.
    os._exit(0)


if __name__ == "__main__":
    main()
