"""Administration of what is stored: verifying, scrubbing, backups, explaining decisions."""
