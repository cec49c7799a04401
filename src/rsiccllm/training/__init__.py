"""Training: one prompt with many answers in one sequence, supervised fine-tuning, preference optimisation."""
