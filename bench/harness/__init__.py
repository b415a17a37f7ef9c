"""What bench/run is made of: the machine, contestants, rounds, tables, and one module per benchmark."""
