"""Prompts and supervised examples: files -> rows -> rendered text -> tokens -> a seeded stream that resumes exactly."""
