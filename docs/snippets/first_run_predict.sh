emotion data prepare --data drawn:largest=2,ratio=1,size=64,seed=9 --output unseen.csv
emotion predict latest unseen.csv
