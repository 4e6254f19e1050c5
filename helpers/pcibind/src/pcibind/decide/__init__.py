"""Pure decisions over the model: which boards are meant, what speaks against them, what to do."""
