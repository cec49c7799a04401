"""Who writes the answers: fixed rules, or a model behind an endpoint."""
