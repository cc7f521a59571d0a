"""`python -m bench.campaign`: faults, one after the other, strike a whole house under traffic.

What must hold whatever strikes is checked at the end; how long each fault was felt is measured.
"""
