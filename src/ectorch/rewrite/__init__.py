"""Changes of a network that must not change what it computes: only what is proven is touched."""
