"""Runs over many pictures: from folders, lists and shards to captions on disk, through a journal."""
