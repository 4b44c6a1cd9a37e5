"""Networks, data sets and the one training loop; recipes are data."""
