emotion data prepare --data scenes:images=4,size=320,seed=5 --output new_scenes.csv
emotion predict latest new_scenes.csv --draw drawn
