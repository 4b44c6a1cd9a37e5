"""Networks that are already trained, to a size or a quality, without training."""
