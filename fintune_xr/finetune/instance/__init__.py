"""Fine-tuning of models that find instances."""
