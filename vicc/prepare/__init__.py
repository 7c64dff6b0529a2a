"""Video folders to a store."""
