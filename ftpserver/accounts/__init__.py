"""Accounts: who may log in, by what, how often, and from where."""
