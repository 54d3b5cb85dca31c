"""Files of data sets on the Hugging Face hub: of one commit, on this machine's disk one at a time, while they are read."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.hf_api import RepoFile

from megatron_octo.errors import ResourceError


def newest_commit(data_set: str) -> str:
    with _explained(data_set):
        return str(HfApi().dataset_info(data_set).sha)


def files(data_set: str, commit: str) -> list[tuple[str, int]]:
    """All files by their paths in the data set, sorted, with their sizes."""
    with _explained(data_set):
        tree = HfApi().list_repo_tree(data_set, recursive=True, revision=commit, repo_type="dataset")
        return sorted((entry.path, entry.size) for entry in tree if isinstance(entry, RepoFile))


@contextlib.contextmanager
def fetched(data_set: str, commit: str, path: str) -> Iterator[Path]:
    """A file below a temporary directory (TMPDIR) that goes afterwards: a corpus such as DCLM is larger than most disks."""
    with tempfile.TemporaryDirectory() as directory:
        with _explained(data_set):
            file = hf_hub_download(data_set, path, repo_type="dataset", revision=commit, local_dir=directory)
        yield Path(file)


@contextlib.contextmanager
def _explained(data_set: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # offline, gated, gone: every layer below has errors of its own
        raise ResourceError(
            f"cannot read {data_set} from the Hugging Face hub ({type(error).__name__}: {error}); name a copy on this machine "
            "with --input, or set HF_TOKEN if the data set asks for an agreement"
        ) from error
