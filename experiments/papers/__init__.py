"""What holds a model to the paper that it is from: that paper's data and protocol, and a fit on them."""
