# status 1
emotion fit --recipe quick --data my_images
