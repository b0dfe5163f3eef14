"""What training and judging share about a frozen encoder."""
