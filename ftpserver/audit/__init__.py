"""The audit log: writing it, reading it, and telling others that it has grown."""
