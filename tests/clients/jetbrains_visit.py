"""What JetBrains' IDEs do over one connection: PORT USER HOST_KEY KEY CERTIFICATE CHANNELS.

Many commands at once, SFTP beside them, and a listener at the target whose port the server chooses.
"""

from __future__ import annotations

import base64
import json
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import paramiko  # type: ignore[import-untyped]  # it brings no types

CONNECT = """\
import socket
try:
    there = socket.create_connection(("127.0.0.1", {port}))
except ConnectionRefusedError:  # somebody else has this port of the one loopback, and sshd the other's
    there = socket.create_connection(("::1", {port}))
print(there.recv(100).decode())
"""


def main() -> None:
    port, user, host_key, key, certificate, channels = sys.argv[1:]
    kind, blob = host_key.split()
    with paramiko.SSHClient() as client:
        expected = paramiko.PKey.from_type_string(kind, base64.b64decode(blob))
        client.get_host_keys().add(f"[127.0.0.1]:{port}", kind, expected)
        private = paramiko.Ed25519Key.from_private_key_file(key)
        private.load_certificate(certificate)
        client.connect("127.0.0.1", int(port), user, pkey=private, look_for_keys=False, allow_agent=False)
        with ThreadPoolExecutor(int(channels) + 1) as pool:
            copied = pool.submit(copy, client)
            ran = list(pool.map(lambda number: run(client, f"cat; exit {number}", str(number)), range(int(channels))))
            copied.result()
        transport = client.get_transport()
        listening = transport.request_port_forward("127.0.0.1", 0, answer)
        reached = run(client, shlex.join([sys.executable, "-c", CONNECT.format(port=listening)]), "")
        transport.cancel_port_forward("127.0.0.1", listening)
    json.dump({"ran": ran, "reached": reached}, sys.stdout)


def copy(client: Any) -> None:
    with client.open_sftp() as sftp:
        sftp.put("local", "from-jetbrains")
        sftp.get("from-jetbrains", "back")


def run(client: Any, command: str, typed: str) -> tuple[str, int]:
    """A command's output and status."""
    stdin, stdout, _ = client.exec_command(command)
    stdin.write(typed)
    stdin.channel.shutdown_write()
    return stdout.read().decode(), stdout.channel.recv_exit_status()


def answer(channel: Any, origin: tuple[str, int], server: tuple[str, int]) -> None:
    """Somebody connected at the target."""
    channel.sendall(b"from the desk")
    channel.close()


if __name__ == "__main__":
    main()
