"""What `make demo` needs besides a bastion: an identity provider, targets and the walk. Nothing else imports it."""
