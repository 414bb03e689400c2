# lines 40
emotion cross-validate --data drawn:largest=200,ratio=10,size=48 --folds 3
