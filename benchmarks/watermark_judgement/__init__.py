"""What is called marked, what is not, and what cannot be judged."""
