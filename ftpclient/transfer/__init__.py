"""Transfers: files and trees in both directions, resumed and retried."""
