"""For handler authors: the App, its context and what handlers receive."""
