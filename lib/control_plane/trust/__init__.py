"""Who may change what: root and targets metadata, and the policy they make together.

Nothing in this package opens a file or a socket; see ``control_plane.publish.keyfiles`` for those.
"""
