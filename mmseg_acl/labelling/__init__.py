"""What to label next, proposals for labelling tools and the way back, masks that are probably wrong."""
