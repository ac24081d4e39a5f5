"""The network: priors, coder, backbones, necks, heads, decoding."""
