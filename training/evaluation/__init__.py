"""How good checkpoints are: their answers and losses on held-out pictures, in tables and in a report."""
