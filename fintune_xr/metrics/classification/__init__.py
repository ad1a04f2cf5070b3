"""Agreement of predicted with true classes of participants."""
