"""Remote files as Python file objects, for `Client.open`."""
