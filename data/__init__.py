"""Raw events become clean, split, versioned interactions."""
