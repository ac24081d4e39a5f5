"""From priors and boxes to a loss: matching, negative mining, the losses of one prior, normalisers."""
