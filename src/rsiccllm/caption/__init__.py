"""The captioner: two images in, what changed out."""
