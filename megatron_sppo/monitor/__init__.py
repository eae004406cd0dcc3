"""Watching a run: clock, progress line, metric sinks, samples."""
