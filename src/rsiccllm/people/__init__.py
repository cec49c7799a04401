"""Pages on this machine on which named people decide on items, one after another: reviews, ratings."""
