"""Spider and data in its layout: files, prompts, spellings of SQL, rules of exact match, and the embedded sample."""
