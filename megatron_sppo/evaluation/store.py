"""Sampled responses on disk, one file per finished chunk of problems, so that a killed evaluation goes on where it stood.

<output>/samples/<benchmark>/settings.json    what they were sampled with; another setting is refused
<output>/samples/<benchmark>/00000.jsonl      one line per problem: {"id", "responses": [{"text", "tokens", "truncated"}]}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_sppo.batch import Rollouts
from megatron_sppo.errors import UserError


@dataclass(frozen=True)
class Response:
    text: str
    tokens: int
    truncated: bool


class SampleStore:
    """Samples of one model on one benchmark; for one writer."""

    def __init__(self, folder: Path, num_problems: int, chunk: int, settings: dict[str, Any]) -> None:
        """``settings`` fix the samples; they are JSON-able."""
        self.folder, self._settings = folder, {**settings, "problems": num_problems, "chunk": chunk}
        self._chunks = [range(start, min(start + chunk, num_problems)) for start in range(0, num_problems, chunk)]

    def check(self) -> None:
        """UserError where the folder holds samples that were made with other settings."""
        file = self.folder / "settings.json"
        if not file.is_file():
            return
        found = json.loads(file.read_text(encoding="utf-8"))
        for name, now in self._settings.items():
            if found.get(name) != now:
                raise UserError(
                    f"--output: {self.folder} holds samples made with {name}={found.get(name)} and this command has {now}; "
                    "restore that, or choose another --output"
                )

    def missing(self) -> list[range]:
        """Problems still to be sampled, chunk by chunk."""
        return [problems for number, problems in enumerate(self._chunks) if not self._file(number).is_file()]

    def write(self, rollouts: Rollouts, problems: range) -> None:
        """The finished chunk ``problems``: there as a whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self.folder / "settings.json"
        if not settings.is_file():
            write_whole(settings, json.dumps(self._settings, indent=2) + "\n")
        per_problem: list[list[Response]] = [[] for _ in rollouts.prompts.ids]
        lengths, cut = rollouts.response_tokens.lengths.tolist(), rollouts.truncated_B.tolist()
        for index, text in enumerate(rollouts.texts):
            per_problem[int(rollouts.prompt_index_B[index])].append(Response(text, lengths[index], cut[index]))
        lines = [
            json.dumps({"id": name, "responses": [asdict(response) for response in responses]}, ensure_ascii=False)
            for name, responses in zip(rollouts.prompts.ids, per_problem, strict=True)
        ]
        write_whole(self._file(self._chunks.index(problems)), "".join(line + "\n" for line in lines))

    def read(self, ids: Sequence[str]) -> list[list[Response]]:
        """[P][K] all responses, in the order of ``ids``."""
        found = {}
        for number in range(len(self._chunks)):
            # Not splitlines(): a response may hold U+2028 and the like, which JSON leaves as they are.
            for line in self._file(number).read_text(encoding="utf-8").split("\n")[:-1]:
                row = json.loads(line)
                found[row["id"]] = [Response(**response) for response in row["responses"]]
        return [found[name] for name in ids]

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.jsonl"


def write_whole(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
