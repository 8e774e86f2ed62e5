"""Contact sheets of the editing methods."""
