"""Implementations of `bastion.ports`: the module is the promise, the class is the vendor."""
