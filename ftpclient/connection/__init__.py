"""Reaching a server: addresses, keys, credentials, and the connection itself."""
