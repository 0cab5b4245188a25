"""From flags, configuration, agents and tools to a Python module whose keys checkers know.

`sources` reads what an environment shows, `shapes` says of which type a value is, `description`
puts the environments together, and `writing` makes the text of module and stub. Nothing here
writes a file; `control_plane.cli.codegen` does.
"""
