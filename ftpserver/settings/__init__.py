"""Settings: what they are, how they are written, and where their values come from."""
