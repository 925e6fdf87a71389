"""A process of hub_client.py, to which the tests send requests."""

import json
import os
import subprocess
import sys
from pathlib import Path


class Client:
    """A process of hub_client.py. Models are loaded through the cache folder `cache`."""

    def __init__(self, endpoint: str, folder: Path, **environment: str) -> None:
        env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(folder), "NO_PROXY": "*", **environment}
        env = {key: value for key, value in env.items() if key not in ("HF_TOKEN", "HF_HUB_CACHE")}
        script = Path(__file__).with_name("hub_client.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], env=env, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.cache = ""

    def ask(self, call: str, name: str, **options: object) -> dict:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"call": call, "name": name, "options": options}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert "\n" not in answer.get("message", ""), "errors are one line"
        return answer

    def load(self, name: str = "someone/model", **options: object) -> dict:
        return self.ask("load", name, cache_dir=self.cache, **options)

    def error(self, expected: str, name: str = "someone/model", **options: object) -> str:
        """The message of the expected error of `load`."""
        answer = self.load(name, **options)
        assert answer.get("error") == expected, answer
        return answer["message"]

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(20) == 0
