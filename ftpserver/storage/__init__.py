"""Files: homes, uploads from staging to commit, quotas. Nothing here uses a session or a socket."""
