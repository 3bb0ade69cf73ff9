"""How containers reach a network, each other, and are reached: plans, engines, and cleaning up."""
