"""Bastion: one recorded, fenced, time-limited door to servers, web apps and databases."""

__version__ = "0.1.0"
