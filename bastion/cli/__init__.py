"""The command line. Importing this package costs nothing: `fresh` is asked before every `ssh`, and must not wait."""
