"""The search for recipes: studies and where they are kept, trials, what they are judged by, workers and budgets."""
