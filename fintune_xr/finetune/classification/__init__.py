"""Learning classes of whole tiles: heads on stored features, and fine-tuning of the encoder."""
