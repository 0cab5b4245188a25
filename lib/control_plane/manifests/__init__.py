"""Manifests as authors write them: read strictly, checked, and given their canonical bytes."""
