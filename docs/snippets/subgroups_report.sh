# lines 60
emotion report bias latest --by gender age
