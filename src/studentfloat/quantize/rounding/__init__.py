"""From weights to codes: to nearest, or with feedback between columns (GPTQ)."""
