"""Where the images of a pool come from: folders, lists, archives, URLs."""
