"""What a step asks for: each function reads the state and returns actions. It changes nothing."""
