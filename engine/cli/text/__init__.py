"""What the commands print: a file per group of commands, and `console` for what they share."""
