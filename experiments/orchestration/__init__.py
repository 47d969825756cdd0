"""Commands that run one after the other in a workspace: a copy of the project for one source, its models and seeds."""
