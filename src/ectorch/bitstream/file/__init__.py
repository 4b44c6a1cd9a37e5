"""The container: header, index, blocks; written whole, read by name."""
