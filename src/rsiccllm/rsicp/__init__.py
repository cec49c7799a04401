"""RSICP: right answers with wrong ones beside them, for preference learning."""
