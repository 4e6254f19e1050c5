"""What an operator writes: inventories and host data, each value with its check."""
