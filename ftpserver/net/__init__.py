"""Sockets below the protocol: addresses, TLS contexts, accept loops, passing descriptors."""
