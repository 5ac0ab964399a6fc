"""For looking and measuring: chats in the terminal, a run as a web page, what a step costs."""
