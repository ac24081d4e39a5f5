"""Dataset checks: findings in labels and images, and their repair."""
