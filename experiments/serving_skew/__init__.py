"""Features that served answers read against those of the data set: sources, outcomes, causes, costs and the record."""
