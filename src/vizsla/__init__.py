"""vizsla: labelled pictures in, a strong and honest image classifier out."""

__version__ = "0.1.0"
