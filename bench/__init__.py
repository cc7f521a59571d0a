"""The log beside what it could be, `make bench-log`; a year of a real shop, `make bench-year`.

And what a whole house stands, `make campaign-projections`.
"""
