"""What can be added to a fit: tracking, averaging, mixing, logging."""
