"""Export: the ONNX file that is served, its parity with the PyTorch model, and its speed."""
