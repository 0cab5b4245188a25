"""Flags, configuration and registry inside web frameworks and task queues.

Each module needs its own extra and nothing of the others:

- `control_plane.integrations.asgi`: any ASGI application; no extra.
- `control_plane.integrations.fastapi`: dependencies for FastAPI; extra ``fastapi``.
- `control_plane.integrations.django`: an app to install; extra ``django``.
- `control_plane.integrations.celery`: the caller goes with the task; extra ``celery``.
- `control_plane.integrations.current`: what all of them set, for code that sees no request.
"""
