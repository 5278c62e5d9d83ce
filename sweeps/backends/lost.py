"""What became of a lost worker, in a line: Ray tells it in paragraphs."""

from __future__ import annotations

import re


def lost_message(told: str) -> str:
    """One line on why a worker is gone, from the text of Ray's error."""
    text = re.sub(r"\x1b\[\d*m", "", told).strip()
    pid, address = _found(r"\bpid[:=] ?(\d+)", text), _found(r"\bip[:=] ?([\w.:]+)", text)
    who = f"the worker (process {pid} on {address})" if pid and address else "the worker"
    if "creation task" in text:
        return f"{who} could not be started: {text.splitlines()[-1].strip()}"
    if "node has died" in text or "node has crashed" in text or "node was terminated" in text:
        return f"{who} is gone with its node"
    if status := _found(r"exit code (-?\d+)", text):
        return f"{who} ended by itself, with exit status {status}"
    if "End of file" in text:
        return f"{who} ended: it was killed, or crashed, or left without a word"
    if "ray.kill" in text:
        return f"{who} was ended by towersweep"
    return f"{who} is gone: {(text.splitlines() or ['no reason was given'])[0]}"


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""
