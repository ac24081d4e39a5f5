"""Backbones: torchvision and timm networks with feature taps, VGG16, a small network."""
