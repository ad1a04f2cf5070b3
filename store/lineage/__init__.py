"""What results rest on."""
