"""What is done: login, admission, approval, supervision. Async; knows the ports and the core, no vendor."""
