"""What pages for people are made of that need no other file, no script and no network."""
