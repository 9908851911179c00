"""Protocols at the door: bytes become an address, an identity claim and a target's name."""
