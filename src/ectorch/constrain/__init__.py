"""A network whose weights take few values: codebooks, code lengths, relaxations, and the reads."""
