"""How a model is spread over devices and processes. Knows no concrete model and no task."""
