"""A driver on a Ray cluster, in RL's place: `python -m ray_driver CONFIG OUT`.

Says in OUT/nodes who works for it, waits for the file that the config has as its prompts, counts again, and leaves with the number
that OUT's name ends in.
"""

import json
import sys
import time
from pathlib import Path

import ray

from megatron_octo import artifacts


@ray.remote(scheduling_strategy="SPREAD")
def where() -> str:
    time.sleep(0.5)
    return ray.util.get_node_ip_address()


def workers() -> list[str]:
    return sorted(set(ray.get([where.remote() for _ in range(4)])))


def main() -> int:
    config, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    code = int(out.name.rpartition("-")[2])
    ray.init(log_to_driver=False)
    with artifacts.stage(out, kind="test", config=config, resumable=True) as stage:
        (out / "nodes").write_text(json.dumps(workers()))
        while not Path(config["prompts"]).exists():
            time.sleep(0.2)
        assert workers() == json.loads((out / "nodes").read_text())
        stage.complete = code == 0
    return code


if __name__ == "__main__":
    raise SystemExit(main())
