"""Networks <-> ``.ect`` files: the room that joins torch and the bitstream."""
