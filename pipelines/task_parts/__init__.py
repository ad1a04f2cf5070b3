"""What the steps of all tasks share: what is asked of them, and the formats that any of them may write."""
