"""Networks that others trained, what the compressors make of them, and how the two are compared."""
