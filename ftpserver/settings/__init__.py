"""Settings: their table, how values are written, and reading the settings file."""
