"""General questions that no training sees: what atoms must leave alone is checked on these.

`router.general_questions` is of the same kinds, but atoms learn silence on it and the router its threshold, so a figure
on it would flatter. None of these stands there, nor asks the same thing in other words.
"""

from __future__ import annotations

UNSEEN_QUESTIONS: tuple[str, ...] = (
    "Who composed the Ninth Symphony?",
    "Which scientist proposed the theory of evolution by natural selection?",
    "Who wrote the novel Frankenstein?",
    "Who was the first woman to fly solo across the Atlantic?",
    "What is the capital of Canada?",
    "Which mountain range separates Spain from France?",
    "What is the smallest country in the world?",
    "In which city is the Acropolis?",
    "When was the Great Wall of China built?",
    "What started the First World War?",
    "Who built the pyramids of Giza?",
    "What was the Renaissance?",
    "What is the chemical formula of table salt?",
    "Why do we have seasons?",
    "What is a black hole?",
    "How do bees make honey?",
    "Which gas do humans breathe out?",
    "How many legs does a spider have?",
    "What is the freezing point of water in Fahrenheit?",
    "What is 144 divided by 12?",
    "How many minutes are there in a week?",
    "What is the sum of the angles in a triangle?",
    "Is zero an even number?",
    "How do I cook rice?",
    "How can I learn to play the guitar?",
    "How do I remove chewing gum from clothes?",
    "What is a good way to remember names?",
    "How do I write a letter of complaint?",
    "Hi there! What's up?",
    "Who made you?",
    "Tell me something interesting.",
    "Write a short story about a lonely robot.",
    "Write a limerick about a cat.",
    "Suggest a title for a book about gardening.",
    "What is the past tense of the verb go?",
    "How do you say good morning in German?",
    "What does CPU stand for?",
    "Write a SQL query that counts the rows of a table.",
    "How does a credit card work?",
    "What should I eat for breakfast?",
)
