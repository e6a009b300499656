"""What every engine's source shares: the order of the questions, and what an answer means."""
