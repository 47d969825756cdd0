"""Hyperparameter search with Optuna: studies, trials, workers, and their MLflow runs."""
