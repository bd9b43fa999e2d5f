"""Taking over objects that other tools put into a bucket, where they lie."""
