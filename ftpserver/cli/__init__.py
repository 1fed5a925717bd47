"""The command line `ftpd`."""
