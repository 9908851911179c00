"""Commands from where people talk, and the answers."""
