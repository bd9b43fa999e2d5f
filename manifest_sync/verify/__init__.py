"""Looking for damage in the bucket, and saying whom it hurts."""
