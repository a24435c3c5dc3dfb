"""``python -m nftbridge`` is the command ``nftbridge``."""

import sys

from nftbridge.cli import main

sys.exit(main())
