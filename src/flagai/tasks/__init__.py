"""What is being learned: tasks, their table and their results. Knows no trainer; importing it loads no torch."""
