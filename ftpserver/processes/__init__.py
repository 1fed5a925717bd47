"""Processes of one server: forking them, and how they ask each other things."""
