# lines 40
emotion search --recipe quick --data drawn:largest=60,ratio=3,size=48 --space loss --trials 4 --folds 2
