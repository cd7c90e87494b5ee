"""How weights move: AdamW, Muon, and the schedule of the learning rate."""
