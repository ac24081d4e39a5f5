"""Running detectors: the protocol, our checkpoints, images from files."""
