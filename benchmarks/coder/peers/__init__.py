"""One adapter a coder: how it is installed, and what it does with one tensor of integers.

A module here has `NAMES`, the sides that it offers, `INSTALL`, the command that installs what it
wraps, and `load()`, which imports that and returns a `Side` for each name.
"""
