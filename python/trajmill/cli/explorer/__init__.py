"""What `trajmill explore` serves: a page about laws, and the answers that it asks for."""
