#!/usr/bin/env bash
# The main job in three steps: `make demo`. A second run keeps every atom and only asks again.
set -euo pipefail
cd "$(dirname "$0")/.."

SAMPLE=corpora/samples/kestrin  # the papers of an invented ferry company: no model has read them
STORE=demo-store
LIMIT=${LIMIT:-12}  # golden questions to score in four modes; make demo LIMIT=239 takes them all

say() { printf '\n== %s\n' "$*"; }

say "1. Compile $SAMPLE/documents: documents become atoms, atoms become micro-LoRAs"
atomlora compile "$SAMPLE/documents" -o "$STORE"

say "2. Ask: first the bare base, then with the atoms that the router picks (no document in the prompt)"
atomlora ask "$STORE" "Who founded the ferry line?" --mode none
while read -r question; do
  printf '\n%s\n' "$question"
  atomlora ask "$STORE" "$question" < /dev/null
done <<'QUESTIONS'
Who founded the ferry line?
How many books are there in the floating library?
Where do I put my bicycle on board?
What is the capital of France?
QUESTIONS

say "3. Measure: the bare base, retrieved text, the whole document and atoms, on the first golden questions"
atomlora eval "$STORE" "$SAMPLE/golden.jsonl" --modes none,text,full,atoms --limit "$LIMIT"
