"""Measures what a server carries, from outside: run as `python -m bench`, from the root of the repository."""
