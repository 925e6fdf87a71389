"""Model folders on disk and on the Hugging Face Hub: strict loading and atomic saving."""
