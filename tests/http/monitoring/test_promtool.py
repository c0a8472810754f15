"""The metrics of real servers, as Prometheus's own checker judges them."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.promtool import promtool
from tests.helpers.server import ServerProcess
from tests.proofs.caller import Caller

SERIES_LIMIT_COUNT = 700
