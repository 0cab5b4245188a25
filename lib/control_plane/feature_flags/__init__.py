"""Feature flags: what a definition may hold, how it is compiled, and who answers for it.

``definition`` decides what a flag may hold, ``bucketing`` where a unit falls, ``compile`` turns a
definition into a function, ``segments`` answers memberships, ``flag_manager`` reads records and
serves the calls applications make.
"""
