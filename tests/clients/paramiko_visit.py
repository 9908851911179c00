"""paramiko as a program: PORT USER HOST_KEY KEY CERTIFICATE. Runs a command, and copies a file there and back."""

from __future__ import annotations

import base64
import json
import sys

import paramiko  # type: ignore[import-untyped]  # it brings no types


def main() -> None:
    port, user, host_key, key, certificate = sys.argv[1:]
    with paramiko.SSHClient() as client:
        kind, blob = host_key.split()
        expected = paramiko.PKey.from_type_string(kind, base64.b64decode(blob))
        client.get_host_keys().add(f"[127.0.0.1]:{port}", kind, expected)
        private = paramiko.Ed25519Key.from_private_key_file(key)
        private.load_certificate(certificate)
        client.connect("127.0.0.1", int(port), user, pkey=private, look_for_keys=False, allow_agent=False)
        stdin, stdout, stderr = client.exec_command("cat; echo oops >&2; exit 4")
        stdin.write("typed")
        stdin.channel.shutdown_write()
        ran = {
            "out": stdout.read().decode(),
            "err": stderr.read().decode(),
            "status": stdout.channel.recv_exit_status(),
        }
        with client.open_sftp() as sftp:
            sftp.put("local", "from-paramiko")
            sftp.get("from-paramiko", "back")
        json.dump(ran, sys.stdout)


if __name__ == "__main__":
    main()
