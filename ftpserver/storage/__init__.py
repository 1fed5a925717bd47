"""Files: homes, uploads from staging to commit, quotas. Knows no session and no socket."""
