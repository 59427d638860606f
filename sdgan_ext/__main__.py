"""``python -m sdgan_ext`` is ``sdgan-ext``."""

import sys

from sdgan_ext.cli import main

sys.exit(main())
