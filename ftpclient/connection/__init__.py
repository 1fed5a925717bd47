"""Connecting to a server: addresses, keys, credentials, and the connection itself."""
