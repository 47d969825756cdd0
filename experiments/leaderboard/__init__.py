"""The leaderboard of a dataset as JSON, Markdown, HTML and text."""
