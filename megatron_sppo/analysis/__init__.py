"""Reading a run back and drawing it."""
