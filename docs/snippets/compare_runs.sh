# lines 14
emotion cross-validate --recipe quick --data drawn:largest=80,ratio=8,size=48 --folds 2 --run.name plain
# lines 14
emotion cross-validate --recipe quick --data drawn:largest=80,ratio=8,size=48 --folds 2 --run.name leaky \
  --data.leak oversample_first
