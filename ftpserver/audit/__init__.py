"""The audit log: writing it, reading it, and notifying other programs when it grows."""
