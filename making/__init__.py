"""How the two embedded models in tiny/ were made; nobody needs it to use them."""
