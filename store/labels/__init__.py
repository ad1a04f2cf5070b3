"""Labels of tiles and of what is in them: what queries ask for, and what people see of them."""
