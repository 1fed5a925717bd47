"""The processes of one server: forking them, and the requests between them."""
