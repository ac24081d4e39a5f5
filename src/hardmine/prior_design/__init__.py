"""Prior design: what priors cover of a dataset, pictures of it, and fitting them."""
