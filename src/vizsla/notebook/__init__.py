"""What only a notebook needs: tensors that show themselves and act at once, for looking and trying out."""
