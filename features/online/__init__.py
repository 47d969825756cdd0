"""What is known of users and items now, for answers: profiles and item trends in one store. Loads in the worker."""
