"""What the weights of the head say about channels."""
