"""Building, loading and saving models, their heads, packing and adapters. It knows no task and no trainer."""
