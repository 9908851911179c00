"""Real servers for the tests: on loopback, on free ports, in temporary folders, gone with the test."""
