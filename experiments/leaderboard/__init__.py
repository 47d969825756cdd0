"""The results of a data set side by side: one board as JSON, Markdown, a page that works offline, and a table."""
