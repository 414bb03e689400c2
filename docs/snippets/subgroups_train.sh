# lines 20
emotion fit --recipe quick --data drawn:largest=150,ratio=2,size=48 --split holdout --data.holdout_fraction 0.4
