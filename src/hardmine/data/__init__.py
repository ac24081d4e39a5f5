"""Reading labelled data and images; states, splits, resize and augmentation."""
