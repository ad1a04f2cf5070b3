"""Fine-tuning: data, losses, augmentation, schedules, the engine."""
