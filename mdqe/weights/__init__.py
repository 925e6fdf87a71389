"""Loading and saving models: folders on disk and repositories on the Hugging Face Hub.

`source` finds the files that a model's name refers to, `folder` reads and writes them strictly, and `hub` has
`from_pretrained`, `save_pretrained` and `push_to_hub`.
"""
