"""Everything is in pyproject.toml; this file is where extension modules are declared once there are any."""

from setuptools import setup

setup()
