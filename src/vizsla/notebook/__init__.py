"""What only a notebook needs: images, tensors and cards that show themselves, for looking and trying out."""
