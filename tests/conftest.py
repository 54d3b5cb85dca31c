"""One thread per process, before torch is loaded: tests start processes of their own, and threads that wait for cores spin."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
