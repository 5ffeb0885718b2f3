"""Training data: from folders and tables to examples that are checked and split."""
