"""paramiko as a program of its own: PORT BIND USER KNOWN_HOSTS KEY COMMAND. KEY may be empty."""

from __future__ import annotations

import socket
import sys

import paramiko  # type: ignore[import-untyped]  # it brings no types


def answer(title: str, instructions: str, prompts: list[tuple[str, bool]]) -> list[str]:
    """Show what the server says; it asks for nothing."""
    print(title, instructions, flush=True)  # noqa: T201
    return ["" for _ in prompts]


def main() -> None:
    port, bind, user, known_hosts, key, command = sys.argv[1:]
    transport = paramiko.Transport(socket.create_connection(("127.0.0.1", int(port)), source_address=(bind, 0)))
    transport.start_client(timeout=10)
    expected = paramiko.HostKeys(known_hosts).lookup(f"[127.0.0.1]:{port}") or {}
    if transport.get_remote_server_key() not in expected.values():
        sys.exit("another host key")
    try:
        if key:
            transport.auth_publickey(user, paramiko.Ed25519Key.from_private_key_file(key))
        if not transport.is_authenticated():
            transport.auth_interactive(user, answer)
    except paramiko.AuthenticationException as error:
        sys.exit(f"{(transport.get_banner() or b'').decode()}{error}")
    channel = transport.open_session()
    channel.exec_command(command)
    sys.stdout.write(channel.makefile().read().decode())
    sys.stdout.flush()
    status = channel.recv_exit_status()
    transport.close()
    sys.exit(status)


if __name__ == "__main__":
    main()
