"""Rewards, preferences and people: where labels come from, and their files."""
