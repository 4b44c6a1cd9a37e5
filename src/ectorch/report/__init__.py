"""Tables for the terminal and plots for the eye."""
