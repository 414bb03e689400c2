# status 1
# lines 40
emotion data check my_images --fix cleaned.csv
