"""The commands, grouped in modules by what they act on."""
