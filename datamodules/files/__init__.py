"""Files: where they are, which are images, how images become pixels, and tables of them."""
