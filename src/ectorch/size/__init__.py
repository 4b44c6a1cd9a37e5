"""Bytes of a network: measured, estimated, asked for."""
