"""Fine-tuning of models that find particles."""
