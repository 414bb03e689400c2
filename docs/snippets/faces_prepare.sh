emotion data describe scenes:images=120,size=320
emotion data prepare --data scenes:images=120,size=320 --faces haar --size 128 --no-face keep --output crops
