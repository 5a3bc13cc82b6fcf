"""How large a cluster must be: what one of each thing costs (`costs`), and the sum of it (`plan`)."""
