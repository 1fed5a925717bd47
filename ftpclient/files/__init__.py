"""Remote files as Python's file objects: what `Client.open` returns."""
