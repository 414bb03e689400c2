"""Where a classifier looks: explanations of single images, and whether they are true."""
