"""The command line `ftp`."""
