"""What `vizsla train` does: features first, a closed-form head, then end to end."""
