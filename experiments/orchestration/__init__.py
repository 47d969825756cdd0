"""Verbs run one after the other in a workspace: the source's copy of the project, its models, recipes and seeds."""
