"""The coders in plain Python: the oracle of the compiled ones, and what runs without them."""
