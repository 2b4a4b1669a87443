"""What is asked of an endpoint in tests, and what it replies."""

import json

from atomlora.questions.types import AtomText
from atomlora.settings import EndpointSettings

QUICK = EndpointSettings(attempts=3, backoff_s=0.01, timeout_s=5)
KILN = AtomText(
    title="Halden", headings=("History",), text="The kiln hall reopened in March 2016 under Tomas Ferreira."
)
GOOD = [
    ("When did the kiln hall of Halden reopen?", "March 2016"),
    ("Who was in charge of the kiln hall?", "tomas  ferreira"),
]
KEY = "sk-very-secret"


def reply(*pairs, content=None):
    listed = {"questions": [{"question": question, "answer": answer} for question, answer in pairs]}
    content = json.dumps(listed) if content is None else content
    return 200, {"choices": [{"message": {"role": "assistant", "content": content}}]}


def about(body):
    """A good reply to whatever text is asked about."""
    text = body["messages"][1]["content"].split("Text: ")[1].split("\n")[0]
    return reply((f"Which number has hall {text.split()[1]}?", text.split()[-1].rstrip(".")))


def halls(count):
    return [AtomText(title="", text=f"Hall h{n} has number {n + 10}.") for n in range(count)]
