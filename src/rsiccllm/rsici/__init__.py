"""RSICI: instruction data. This stage turns image pairs into prompts with right answers."""
