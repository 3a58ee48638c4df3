"""What the original's names do today, in terms of the house. Nothing outside `_compat` imports it."""
