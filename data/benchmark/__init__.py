"""Spider, and what is laid out like it: its files, prompts, spellings of SQL and rules of exact match; the embedded sample."""
