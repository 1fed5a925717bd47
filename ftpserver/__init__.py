"""The server: `ftpd`."""
