"""The demonstration: a small model, from rendered scenes to a report, on a laptop."""
