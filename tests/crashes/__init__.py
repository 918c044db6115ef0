"""The system, killed at one point after another."""
