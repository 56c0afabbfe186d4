#!/usr/bin/env python3
"""A plain cPTP peer, from the specification alone: a thread a connection, blocking sockets, nothing but the standard
library.

    reference_peer.py NAME TABLE_SIZE keep|close [IP PORT]

With `close` it closes after its packet, as peers that were seen do. With IP and PORT it joins there first, from its own
listening port. It says what happens on stdout, a line each, and ends when stdin does.
"""
import os
import socket
import struct
import sys
import threading
import time

NAME, SIZE, KEEP = sys.argv[1].encode(), int(sys.argv[2]), sys.argv[3] == "keep"
table, lock, links = [], threading.Lock(), []


def say(*words):
    with lock:
        print(*words, flush=True)


def pack(kind, entries):
    head = 7 << 21 | kind << 13 | len(entries)
    body = b"".join(socket.inet_aton(ip) + struct.pack(">H", port) for ip, port in entries)
    # Padded, as one implementation does.
    return head.to_bytes(3, "big") + bytes([len(NAME)]) + NAME + body + bytes(6)


def exactly(conn, n):
    got = b""
    while len(got) < n:
        piece = conn.recv(n - len(got))
        if not piece:
            raise EOFError
        got += piece
    return got


def unpack(conn):
    head = int.from_bytes(exactly(conn, 3), "big")
    assert head >> 21 == 7, "version"
    name = exactly(conn, exactly(conn, 1)[0])
    entries = [exactly(conn, 6) for _ in range(head & 0x1FFF)]
    peers = [(socket.inet_ntoa(e[:4]), int.from_bytes(e[4:], "big")) for e in entries]
    return head >> 13 & 0xFF, name.decode(), peers


def bound(port=0):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(("127.0.0.1", port))
    return s


def wait_for_end(conn, peer):
    try:
        while conn.recv(4096):
            pass
    except OSError:
        pass
    table.remove(peer)
    say("gone %s:%d" % peer)


def serve(listener):
    while True:
        conn, peer = listener.accept()
        with lock:
            before = list(table)
            welcome = len(table) < SIZE
            if welcome:
                table.append(peer)
        conn.sendall(pack(1 if welcome else 2, before))
        say("from %s:%d" % peer, "welcome" if welcome else "redirect")
        if welcome and KEEP:
            threading.Thread(target=wait_for_end, args=(conn, peer), daemon=True).start()
        else:
            conn.close()


def join(own, contact):
    todo, tried = [contact], {own}
    while todo:
        peer = todo.pop(0)
        if peer in tried:
            continue
        tried.add(peer)
        for pause in (0.2, 1, 3):
            try:
                conn = bound(own[1])
                conn.connect(peer)
                break
            except OSError as e:
                say("failed %s:%d" % peer, e)
                conn.close()
                time.sleep(pause)
        else:
            continue
        kind, name, peers = unpack(conn)
        say("to", name, {1: "welcome", 2: "redirect"}[kind], " ".join("%s:%d" % p for p in peers))
        todo.extend(peers)
        if kind == 1:
            table.append(peer)
            links.append(conn)
            return


listener = bound()
listener.listen(64)
own = listener.getsockname()
say("listening %s:%d" % own)
threading.Thread(target=serve, args=(listener,), daemon=True).start()
if len(sys.argv) > 4:
    join(own, (sys.argv[4], int(sys.argv[5])))
sys.stdin.read()
os._exit(0)
