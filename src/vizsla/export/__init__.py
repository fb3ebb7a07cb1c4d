"""Take a model elsewhere: ONNX, torch.export, the hub; and verify what was written."""
