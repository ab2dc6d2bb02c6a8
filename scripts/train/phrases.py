"""Words the conversations are made of: question pools (many ways to ask), plain answers, small talk.

In a pool `{n}` is a noun phrase with its article where English needs one; "colour" is turned into "color" at random.
"""

NUMBER = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight"]
REGIONS = ["top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right"]

COLOUR_OF = ["What colour is the {n}?", "Which colour is the {n}?", "What is the colour of the {n}?", "Tell me the colour of the {n}.",
             "What colour does the {n} have?", "The {n} is what colour?", "Can you tell me what colour the {n} is?",
             "What colour is that {n}?", "Name the colour of the {n}.", "Colour of the {n}?", "What color is the {n} in this picture?"]
COLOUR_IT = ["What colour is it?", "What colour is this?", "Which colour is it?", "What colour is the object?", "What colour is the shape?",
             "Name the colour.", "What is the colour of this object?", "What colour do you see?", "Tell me its colour.", "Colour?"]
SHAPE_OF = ["What shape is {c}?", "Which shape is {c}?", "What is the {c} shape?", "What is the {c} thing?", "What is the {c} object?",
            "Which object is {c}?", "What kind of shape is the {c} one?", "The {c} one is what shape?", "What shape is the {c} object?",
            "Which thing is {c}?", "Name the {c} shape."]
SHAPE_IT = ["What shape is it?", "What shape is this?", "Which shape is this?", "Name the shape.", "What shape do you see?",
            "What is the shape of this object?", "What shape is shown here?", "What shape is in the picture?", "Shape?"]
WHAT_IT = ["What is this?", "What is in the picture?", "What do you see?", "What is shown here?", "What can you see in this image?",
           "What is in this image?", "What's this?", "What does the picture show?", "What's in the picture?"]
COUNT = ["How many {n} are there?", "How many {n} do you see?", "How many {n} are in the picture?", "Count the {n}.", "How many {n}?",
         "How many {n} can you see?", "What is the number of {n}?", "How many {n} are there in this image?", "Number of {n}?",
         "Can you count the {n}?", "How many {n} does the picture show?", "Please count the {n} for me.", "how many {n} are in this image"]
EXISTS = ["Is there {n}?", "Is there {n} in the picture?", "Do you see {n}?", "Can you see {n}?", "Does the picture show {n}?",
          "Does the image contain {n}?", "Is there {n} here?"]
IS_COLOUR = ["Is the {n} {c}?", "Is the colour of the {n} {c}?", "Does the {n} have the colour {c}?", "Would you say the {n} is {c}?"]
WHERE = ["Where is the {n}?", "Where in the picture is the {n}?", "In which part of the picture is the {n}?", "Where can I find the {n}?",
         "What is the position of the {n}?", "Tell me where the {n} is.", "Which part of the image has the {n}?", "Where do you see the {n}?"]
WHERE_IT = ["Where is it?", "And where is it?", "Where in the picture is it?", "Where can I find it?"]
SIDE_YES = ["Is the {a} {r} the {b}?", "Is the {a} {r} the {b} in the picture?", "Would you say the {a} is {r} the {b}?",
            "Can you see whether the {a} is {r} the {b}?"]
SIDE_OR = ["Is the {a} {r} or {s} the {b}?", "Is the {a} to the {r} or {s} the {b}?", "Tell me if the {a} is {r} or {s} the {b}."]
SIDE_WHAT = ["What is {r} the {b}?", "Which object is {r} the {b}?", "What do you see {r} the {b}?", "Which shape is {r} the {b}?"]
LARGER_YES = ["Is the {a} {r} than the {b}?", "Is the {a} {r} in size than the {b}?", "Would you say the {a} is {r} than the {b}?"]
LARGER_OR = ["Which is {r}, the {a} or the {b}?", "What is {r}, the {a} or the {b}?", "Which one is {r}: the {a} or the {b}?",
             "Is the {a} or the {b} {r}?"]
EXTREME = ["Which object is the {r}?", "What is the {r} object?", "Which shape is the {r}?", "Which is the {r} one?", "What is the {r} thing here?"]
FURTHEST = ["Which object is furthest to the {r}?", "What is the {r}most object?", "Which shape is the {r}most?", "What is furthest {r}?"]
PATTERN = ["What pattern does the {n} have?", "Which pattern is on the {n}?", "Is the {n} plain, striped, dotted or checkered?",
           "What is the pattern of the {n}?", "How is the {n} filled?", "What texture does the {n} have?"]
GROUND = ["What colour is the background?", "Which colour is the background?", "What is the background colour?", "Name the colour of the background."]
DESCRIBE = ["Describe the picture.", "Describe this image.", "What do you see?", "What is in the picture?", "What can you see in this image?",
            "Tell me what you see.", "Give a description of the picture.", "Please describe what is shown.", "What does the image show?",
            "describe", "Describe the image in detail.", "List the objects in the picture.", "What objects are there?", "What's in this picture?"]
COLOURS_SEEN = ["Which colours do the objects have?", "What colours do you see on the objects?", "List the colours of the objects.",
                "What are the colours of the shapes?"]
READ_WORD = ["What does it say?", "What word is this?", "Read the word.", "What is written here?", "What does the picture say?", "Read the text.",
             "What word do you see?", "Which word is shown?", "What is the word?", "What text is in the image?", "Can you read this?",
             "What does the sign say?", "Please read what is written.", "What is written in the picture?", "Transcribe the text."]
READ_NUMBER = ["What number is this?", "Read the number.", "What number is shown?", "Which number do you see?", "What is the number?",
               "What number is written here?", "What does it say?", "What number is in the picture?", "Can you read the number?",
               "What is written here?", "Read the digits.", "Which number is in the image?"]
READ_DIGIT = READ_NUMBER + ["What digit is this?", "Which digit is shown?", "What digit do you see?", "Read the digit."]
LETTERS = ["How many letters does the word have?", "How many letters are there?", "How long is the word?", "Count the letters."]
FIRST_LETTER = ["What is the first letter?", "Which letter comes first?", "What letter does the word start with?"]
LAST_LETTER = ["What is the last letter?", "Which letter comes last?", "What letter does the word end with?"]
SPELL = ["Spell the word.", "Spell it.", "How is the word spelled?", "Can you spell the word?", "Read the letters one by one."]
BAR_COUNT = ["How many bars are there?", "How many bars does the chart have?", "Count the bars.", "How many bars do you see?"]
BAR_TALLEST = ["Which bar is the {r}?", "What colour is the {r} bar?", "Which colour has the {r} bar?", "Which is the {r} bar?"]
BAR_OR = ["Which bar is {r}, the {a} or the {b} one?", "Which is {r}, the {a} bar or the {b} bar?"]
CHART = ["What kind of chart is this?", "What type of plot is this?", "What is shown here?", "Is this a bar chart or a line chart?"]
LINE_TREND = ["Does the line go up or down?", "What does the line do?", "Is the line rising or falling?", "What is the trend of the line?",
              "Which way does the line go?", "Describe the trend."]
LINE_COLOUR = ["What colour is the line?", "Which colour is the line?", "Name the colour of the line."]
CHANGED = ["What changed?", "What is different?", "What changed between the two pictures?", "What is the difference between these pictures?",
           "Compare the two pictures. What changed?", "What has changed from the first to the second picture?", "Spot the difference.",
           "What is different in the second picture?", "What is the difference?", "What's changed?", "How are these two images different?"]
HAS_MORE = ["Which picture has more {n}?", "Which image has more {n}?", "In which picture are there more {n}?",
            "Which one has more {n}, the first or the second picture?", "Where are more {n}, in the first or the second picture?"]
HAS_MOST = ["Which picture has the most {n}?", "Which image has the most {n}?", "In which picture are the most {n}?"]
SHOWS = ["Which picture shows {n}?", "Which image shows {n}?", "In which picture is {n}?", "Which picture has {n}?", "Where is {n}, in which picture?"]
SAME_KIND = ["Do both pictures show the same shape?", "Is it the same shape in both pictures?", "Are the shapes the same?"]
SAME_COLOUR = ["Do both objects have the same colour?", "Is the colour the same in both pictures?", "Are the two objects the same colour?"]
ODD = ["Which picture is different?", "Which one is the odd one out?", "Which picture does not belong?", "Which of the three is different?"]
IN_PICTURE = ["How many {n} are in the {o} picture?", "Count the {n} in the {o} picture.", "How many {n} does the {o} image show?"]
IN_PICTURE_COLOUR = ["What colour is the object in the {o} picture?", "Which colour does the {o} picture show?"]
STEP = ["Think step by step.", "Think step by step and then answer.", "Let's think step by step.", "Reason step by step.", "Explain step by step.",
        "Show your steps."]
ONE_WORD = ["Answer with one word.", "One word only.", "Answer in one word.", "Reply with a single word.", "Just one word."]
ONE_NUMBER = ["Answer with a number.", "Give just the number.", "Reply with the number only.", "Only the number."]
SHORT = ["Just the answer, please.", "Reply with just the answer.", "Keep it short.", "Short answer."]
YES_NO = ["Answer yes or no.", "Yes or no?", "Reply with yes or no."]

UNKNOWABLE = ["Who made this picture?", "What is the name of the artist?", "How much does it cost?", "When was this picture taken?",
              "How heavy is the {n}?", "What does the {n} smell like?", "Who owns the {n}?", "What is behind the {n}?", "Why is the {n} there?",
              "What happened before this?", "What will happen next?", "Where in the world was this made?", "What is the {n} thinking?",
              "How old is the {n}?", "What is the temperature there?", "What does the {n} taste like?", "Who is the owner of this picture?",
              "What is the name of the {n}?", "How much does the {n} weigh?", "Is the {n} for sale?", "What day was it?", "What time is it there?",
              "Does the {n} feel warm?", "What sound does the {n} make?", "Which city is this?", "What camera was used?", "Who drew the {n}?",
              "Is the {n} expensive?", "How fast is the {n}?", "What is inside the {n}?", "Who lives here?", "What is the phone number of the artist?"]
CANNOT = "I cannot tell that from the picture."
NO_PICTURE_ASK = ["What is in the picture?", "What do you see?", "Describe the picture.", "How many circles are there?", "What colour is the square?",
                  "What does it say?", "Read the word.", "What shape is this?", "Describe this image.", "How many objects are there?", "What is this?",
                  "What changed?", "What number is this?", "Where is the star?", "Is there a red circle?", "Count the shapes."]
NO_PICTURE = "I do not see a picture. Please send me one."

SYSTEM = ["You are a helpful assistant.", "You are a friendly assistant who looks at pictures.", "You are Hearth, a small vision assistant.",
          "Answer the question about the picture.", "You are a careful assistant. Answer briefly.", "You are a helpful assistant that can see images.",
          "Be polite and brief.", "You answer questions.", "You are a chatbot."]

CHAT = [
    (["Hello!", "Hi", "Hi there!", "Hey", "Good morning", "Hello, how are you?", "hello", "hi!"],
     "Hello! Send me a picture and ask me about it, or ask me for a story."),
    (["Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "Are you a robot?", "Which model are you?"],
     "I am Hearth Tiny, a very small model that can look at simple pictures and tell short stories."),
    (["What can you do?", "How can you help me?", "What do you know?", "Help", "What are you good at?", "What should I ask you?"],
     "I can name colours and shapes, count up to six, read short words and numbers, compare pictures and tell a short story."),
    (["Thank you!", "Thanks", "Thank you very much.", "Great, thanks!", "thanks a lot"], "You are welcome!"),
    (["Bye", "Goodbye!", "See you later.", "Good night"], "Goodbye! See you soon."),
    (["How big are you?", "How many parameters do you have?", "Are you a big model?"],
     "I am tiny: I have fewer than ten million parameters."),
    (["Are you always right?", "Can I trust you?", "Do you make mistakes?"], "No, I make mistakes. I am very small, so please check what I say."),
    (["Can you see?", "Can you see pictures?", "Do you understand images?", "Can I send you a picture?"],
     "Yes, I can look at simple pictures. Please send me one."),
    (["What colours do you know?", "Which colours can you name?"],
     "I know red, orange, yellow, green, blue, purple, pink, brown, black, white and gray."),
    (["Which shapes do you know?", "What shapes can you see?"],
     "I know circles, squares, triangles, stars, hearts, diamonds, crosses, rings, moons and pentagons."),
    (["What is the capital of France?", "Who is the president?", "What is the weather today?", "What is the news?", "Write some code for me.",
      "What is the meaning of life?", "Solve this equation.", "Translate this to German.", "Who won the game?", "How do I cook rice?",
      "What is the stock price?", "Explain quantum physics.", "What is machine learning?", "When was the war?", "Write an email to my boss."],
     "I am sorry, I do not know that. I only know simple pictures and short stories."),
    (["How many sides does a triangle have?", "How many corners does a triangle have?"], "A triangle has three sides and three corners."),
    (["How many sides does a square have?", "How many corners does a square have?"], "A square has four sides and four corners."),
    (["How many sides does a pentagon have?"], "A pentagon has five sides."),
    (["How many sides does a circle have?", "Does a circle have corners?"], "A circle is round and has no corners."),
    (["What colour is grass?", "What colour are leaves?"], "It is usually green."),
    (["What colour is the sky?"], "The sky is usually blue."),
    (["What colour is snow?", "What colour is milk?"], "It is white."),
    (["What colour is a banana?", "What colour is the sun?"], "It is usually yellow."),
]
