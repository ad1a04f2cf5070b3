"""U-Net that maps where particles are."""
