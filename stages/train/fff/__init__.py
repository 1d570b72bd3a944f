"""Fast feedforward networks: layers of which a token needs only one path through a tree."""
