"""How one tensor becomes bytes: a room a coding, and the choice between them."""
