"""What planners and direct learners train on, and pairs for people: with torch, so not searched."""
