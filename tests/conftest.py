"""For all tests: no example has a deadline, as a busy machine is no defect of the code."""

from hypothesis import settings

settings.register_profile("timeless", deadline=None)
settings.load_profile("timeless")
