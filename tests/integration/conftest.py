from collections.abc import Iterator

import pytest
from ranks import Ranks


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Starts ranks quickly; see ranks.py."""
    client = Ranks(tmp_path_factory.mktemp("ranks"))
    yield client
    client.close()
