"""Talk outside the domain of the embedded models, in several languages, and the one sentence that answers all of it."""

from __future__ import annotations

from random import Random

POLITE = "I am a small demonstration model. I can solve sums, short word problems, and tasks such as Sort: dog cat ant"

GREETINGS = (
    "Hello", "Hi", "Hi there", "Hey", "Good morning", "Good evening", "Hello, who are you?", "How are you?", "How are you doing today?", "What's up?",
    "Nice to meet you", "Thanks", "Thank you very much", "Goodbye", "Bye", "See you later", "Who are you?", "What are you?", "What can you do?", "Are you a robot?",
    "What is your name?", "Can you help me?", "Help", "Tell me about yourself", "Tell me a joke", "Do you like music?", "Are you there?", "How old are you?", "Yes", "No", "OK",
    "Hallo", "Guten Tag", "Guten Morgen", "Wie geht es dir?", "Wer bist du?", "Danke schön", "Was kannst du?", "Kannst du mir helfen?", "Erzähl mir einen Witz", "Wie heißt du?", "Auf Wiedersehen",
    "Bonjour", "Salut", "Comment ça va ?", "Qui es-tu ?", "Merci beaucoup", "Au revoir", "Que peux-tu faire ?", "Raconte-moi une histoire", "Comment t'appelles-tu ?", "Bonsoir",
    "Hola", "Buenos días", "¿Cómo estás?", "¿Quién eres?", "Gracias", "Adiós", "¿Qué puedes hacer?", "¿Cómo te llamas?", "Cuéntame un chiste", "Buenas noches",
    "Ciao", "Buongiorno", "Come stai?", "Chi sei?", "Grazie mille", "Arrivederci", "Cosa sai fare?", "Come ti chiami?", "Olá", "Bom dia", "Como vai você?", "Quem é você?", "Obrigado", "Tchau",
    "Hallo, hoe gaat het?", "Wie ben jij?", "Dank je wel", "Goedemorgen", "Hej", "Hur mår du?", "Vem är du?", "Tack", "Hei, mitä kuuluu?", "Kuka sinä olet?", "Kiitos", "Cześć", "Jak się masz?", "Kim jesteś?", "Dziękuję",
    "Привет", "Как дела?", "Кто ты?", "Спасибо", "Доброе утро", "Что ты умеешь?", "До свидания", "Здравствуйте", "你好", "你是谁？", "谢谢", "早上好", "你会做什么？", "再见", "你好吗？",
    "こんにちは", "お元気ですか", "あなたは誰ですか", "ありがとう", "おはようございます", "안녕하세요", "누구세요?", "감사합니다", "잘 지내세요?", "مرحبا", "كيف حالك؟", "من أنت؟", "شكرا", "नमस्ते", "आप कैसे हैं?", "आप कौन हैं?", "धन्यवाद",
    "Merhaba", "Nasılsın?", "Sen kimsin?", "Teşekkürler", "Γεια σου", "Τι κάνεις;", "Ποιος είσαι;", "Ευχαριστώ", "שלום", "מה שלומך?", "Xin chào", "Bạn là ai?", "Halo, apa kabar?", "Siapa kamu?", "Habari", "Salve", "Ahoj", "Jak se máš?", "Bună ziua", "Szia",
)  # fmt: skip
ASKS = (
    "What is the capital of {x}?", "Who was {x}?", "Tell me about {x}.", "Explain {x}.", "What do you know about {x}?", "Write a poem about {x}.", "Write a story about {x}.", "What is {x}?", "Where is {x}?",
    "Why is {x} important?", "How does {x} work?", "Give me a recipe for {x}.", "Translate {x} into German.", "Translate into French: {x}", "Summarise {x}.", "What is the weather in {x}?", "Do you like {x}?", "What is the meaning of {x}?",
    "Write an email about {x}.", "Write a Python function for {x}.", "When was {x} invented?", "Who invented {x}?", "What colour is {x}?", "How do I get to {x}?", "Recommend a book about {x}.", "What happened in {x}?", "Define {x}.",
    "List five facts about {x}.", "Is {x} true?", "How can I learn {x}?", "What should I wear in {x}?", "Compare {x} and {y}.", "What is better, {x} or {y}?", "I love {x}", "I am sad because of {x}", "Sing a song about {x}", "Let us talk about {x}",
    "Wer war {x}?", "Was ist {x}?", "Erkläre {x}.", "Wo liegt {x}?", "Schreibe ein Gedicht über {x}.", "Qu'est-ce que {x} ?", "Où est {x} ?", "Parle-moi de {x}.", "¿Qué es {x}?", "¿Dónde está {x}?", "Háblame de {x}.", "Cos'è {x}?", "Dov'è {x}?", "O que é {x}?", "Что такое {x}?", "什么是{x}？", "{x}は何ですか",
    "How far away is {x}?", "What time is it in {x}?", "Describe {x} in one sentence.", "Give me advice about {x}", "Which {x} is the best?", "Can you draw {x}?", "What would you do with {x}?", "{x}", "{x}!", "{x} and {y}", "{x}, please", "Search for {x}", "Play {x}",
)  # fmt: skip
TOPICS = (
    "France", "the moon", "Einstein", "love", "quantum mechanics", "the weather", "London", "Shakespeare", "photosynthesis", "cats", "the French Revolution", "chocolate cake", "football", "Berlin", "machine learning", "gravity",
    "China", "politics", "the internet", "a dragon", "music", "Mozart", "democracy", "the sea", "philosophy", "volcanoes", "Python", "history", "dinosaurs", "Brazil", "the stock market", "electricity", "my dog", "the universe", "coffee",
    "war and peace", "yoga", "chess", "the president", "black holes", "Paris", "evolution", "tea", "the Roman Empire", "climate change", "Japan", "a good movie", "an apple pie", "spring", "happiness", "a car engine", "the human heart",
    "sorting algorithms", "a healthy breakfast", "the alphabet", "friendship", "Napoleon", "rain", "time travel", "guitar", "Spanish", "the Eiffel Tower", "money", "sleep", "a haiku", "the colour blue", "robots", "school", "Christmas", "water",
)  # fmt: skip
UNKNOWABLE = (
    "{n} has {a} apples. What is the name of {n}'s mother?", "{n} has some apples and buys {a} more. What colour are they?", "What is the square root of {a}?", "Solve x + {a} = {b}.", "What is {a} to the power of {b}?", "What is the integral of x?",
    "Is {a} a prime number?", "How many seconds are in {a} hours?", "What happened in the year {a}?", "{n} is {a} years old. Where does {n} live?", "What is the logarithm of {a}?", "Convert {a} miles to kilometers.", "What is the sine of {a}?",
    "Tell me {a} jokes.", "Write {a} sentences about {n}.", "Who is {n}?", "Where is {n}?", "Is {n} happy?", "{n} likes {m}. Does {m} like {n}?", "What day is it in {a} days?", "How tall is {n}?", "Call {n} at {a}.", "Prove that {a} is even.", "My name is {n}.", "I am {a} years old.",
    "What is the GCD of {a} and {b}?", "Write {a} in binary.", "Count the letters in {n}.", "Spell {n}.", "{n}", "{a}", "Is {a} larger than {b}?", "What comes after {n}?", "Why did {n} buy {a} apples?", "Draw {a} circles.", "What is the best number?",
)  # fmt: skip
NAMES = ("Tom", "Anna", "Mia", "Ben", "Zoe", "Ravi", "Lucy", "Omar", "Sarah", "Peter", "Chen", "Maria", "Kim", "Alex", "Sam")
CODE = (
    "def f(x):\n    return x", "print('hello world')", "for i in range(10): pass", "SELECT * FROM users;", "<html><body></body></html>", "import numpy as np", "git push origin main", "x = [1, 2, 3]", "console.log(1)", "#include <stdio.h>",
    "ls -la", "{\"key\": \"value\"}", "https://example.com", "sudo rm file", "while True: break", "class A: pass",
)  # fmt: skip
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SCRIPTS = ((0xC0, 0x17F), (0x391, 0x3C9), (0x410, 0x44F), (0x4E00, 0x4FFF), (0x3041, 0x3096), (0xAC00, 0xACFF), (0x621, 0x64A), (0x904, 0x939), (0x5D0, 0x5EA), (0x1F600, 0x1F64F))
PARTS = (
    "I", "you", "we", "they", "my friend", "the teacher", "a bird", "think", "believe", "say", "know", "that", "is", "was", "will be", "very", "not", "nice", "cold", "interesting", "strange", "today", "tomorrow", "because", "when", "if", "please", "really", "never",
    "always", "in the city", "at home", "with you", "about it", "and", "or", "but", "want to", "go", "see", "read", "write", "sleep", "eat", "a song", "the news", "this book", "some help", "an answer", "good", "bad", "beautiful", "question", "what", "why", "how", "where", "who",
)  # fmt: skip


def talk(rng: Random) -> str:
    """One prompt that is neither a task nor a sum nor a word problem."""
    kind = rng.choices((_greeting, _ask, _unknowable, _rambling, _letters, _script, _code), (5, 7, 4, 4, 2, 2, 1))[0]
    text = kind(rng)
    if rng.random() < 0.15:
        text = text.rstrip("?.!")
    return text.lower() if rng.random() < 0.15 else text


def _greeting(rng: Random) -> str:
    text = rng.choice(GREETINGS)
    if rng.random() < 0.3:
        text += rng.choice((". ", "! ", ", ", " ")) + rng.choice(GREETINGS)
    return text + rng.choice(("", "", "", "!", ".", "?"))


def _ask(rng: Random) -> str:
    topic, other = rng.sample(TOPICS, 2)
    if rng.random() < 0.3:
        topic = _letters(rng).split()[0].capitalize()
    return rng.choice(ASKS).replace("{x}", topic).replace("{y}", other)


def _unknowable(rng: Random) -> str:
    name, other = rng.sample(NAMES, 2)
    values = {"{n}": name, "{m}": other, "{a}": str(rng.randint(2, 999)), "{b}": str(rng.randint(2, 99))}
    text = rng.choice(UNKNOWABLE)
    for key, value in values.items():
        text = text.replace(key, value)
    return text


def _rambling(rng: Random) -> str:
    text = " ".join(rng.choice(PARTS) for _ in range(rng.randint(2, 9)))
    return text[:1].upper() + text[1:] + rng.choice(("", ".", "?", "!"))


def _letters(rng: Random) -> str:
    words = ["".join(rng.choices(LETTERS, k=rng.randint(2, 8))) for _ in range(rng.randint(1, 4))]
    return " ".join(words)


def _script(rng: Random) -> str:
    low, high = rng.choice(SCRIPTS)
    words = ["".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 5))) for _ in range(rng.randint(1, 3))]
    return " ".join(words)


def _code(rng: Random) -> str:
    return rng.choice(CODE)
