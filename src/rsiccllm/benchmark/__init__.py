"""Scores of captions against references, with what they hide made visible: changed-only scores, facts, trivial rows."""
