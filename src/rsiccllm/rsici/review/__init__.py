"""The fourth gate: people look at pair, mask and text, and accept, edit or reject."""
