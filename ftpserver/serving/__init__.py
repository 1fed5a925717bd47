"""Serving: listeners, sessions, the commands they dispatch to, and the threads that run them."""
