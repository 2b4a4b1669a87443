"""Tide gate of the harbour at Small Hask: may a ferry cross the sill?

Dacre Millow wrote this program in 2018 to replace a slide rule. Tide heights come from the gauge at
Pell Steps, which sends a reading every 90 seconds.
"""

SILL_DEPTH_M = 1.9  # depth of water over the sill at chart datum, in metres
UNDER_KEEL_CLEARANCE_M = 0.6  # water that must remain under the keel, in metres
GATE_SWING_MINUTES = 7  # time that the gate takes to swing open

# Draught of each ship that is allowed through the gate, in metres.
DRAUGHT_M = {"Little Ferrule": 1.4, "Quiet Margin": 2.3}


def may_cross(ship: str, tide_height_m: float) -> bool:
    """Return True when the named ship floats over the sill with enough water to spare."""
    depth = SILL_DEPTH_M + tide_height_m
    return depth >= DRAUGHT_M[ship] + UNDER_KEEL_CLEARANCE_M


def lamp_colour(open_now: bool) -> str:
    """Return the colour of the lamp on the gate: violet when it is open, amber when it is shut."""
    return "violet" if open_now else "amber"
