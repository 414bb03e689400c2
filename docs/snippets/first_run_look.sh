emotion runs list
