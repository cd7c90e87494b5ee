"""Which run fits this machine, text and time: hardware, memory, scaling law, planner."""
