"""The search for better settings: what may vary, what is tried next, how sure a gain is."""
