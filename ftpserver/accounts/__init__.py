"""Accounts: who may log in, with what proof, how often, and from where."""
