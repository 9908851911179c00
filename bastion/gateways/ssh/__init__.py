"""SSH at the door: OpenSSH's own client on one side, its server on the other, and the recording in between."""
