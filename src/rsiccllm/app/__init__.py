"""A page in the browser: drop two images, read what changed."""
