"""What qpass knows of frameworks whose models are objects; none of them is needed to use qpass."""
