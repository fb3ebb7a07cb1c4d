"""The one model file: safetensors with a JSON manifest, written and opened without training code."""
