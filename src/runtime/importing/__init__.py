"""What a shop sold before, or sells elsewhere: read line by line, sent through the write door."""
