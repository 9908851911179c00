"""A connection from a chosen address, for clients that cannot choose one: ADDRESS PORT; standard input and output."""

from __future__ import annotations

import os
import socket
import sys
import threading


def main() -> None:
    address, port = sys.argv[1:]
    connection = socket.create_connection(("127.0.0.1", int(port)), source_address=(address, 0))
    threading.Thread(target=_send, args=(connection,), daemon=True).start()
    while data := connection.recv(65536):
        os.write(1, data)


def _send(connection: socket.socket) -> None:
    while data := os.read(0, 65536):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main()
