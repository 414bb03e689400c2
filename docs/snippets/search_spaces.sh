# lines 40
emotion search --recipe quick --data drawn:largest=100,ratio=4,size=48 --space loss --trials 4 --folds 2
