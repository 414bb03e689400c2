emotion data describe my_images
