"""The daemon: the server process, its control socket, discovery, systemd."""
