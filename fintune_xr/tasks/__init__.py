"""What each task stores: schemas, products and records of one tile."""
