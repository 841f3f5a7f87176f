"""The commit log: a pure state machine, the files it is made of, and thin I/O around them."""
