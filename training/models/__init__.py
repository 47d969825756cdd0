"""Networks and counting models behind one contract (see `base.Model`)."""
