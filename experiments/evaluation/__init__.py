"""What a model's rankings reach: cases, metrics, slices and segments, intervals, and differences of two models."""
