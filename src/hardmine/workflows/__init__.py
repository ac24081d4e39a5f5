"""What a public verb does, from the words of a user to files."""
