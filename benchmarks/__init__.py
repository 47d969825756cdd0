"""Speed and memory, each as a ratio against a named reference measured in the same run."""
