"""Token corpora on disk: a directory of raw shards with receipts and a manifest."""
