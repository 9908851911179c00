"""Ports to listen on."""

from __future__ import annotations

from bastion.demo.tools import free_port

__all__ = ["free_port"]
