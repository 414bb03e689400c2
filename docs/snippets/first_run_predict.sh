emotion data prepare --data drawn:largest=2,ratio=1,size=64,seed=9,confusion=0 --output unseen.csv
emotion predict latest unseen.csv
