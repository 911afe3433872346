def watch() -> None:
    """tbd"""
