"""How a version becomes champion, is deployed, rolled out and rolled back."""
