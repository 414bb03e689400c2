# lines 14
emotion cross-validate --recipe quick --folds 2 --run.name plain \
  --data drawn:largest=120,ratio=8,size=48,confusion=0,classes=neutral+happy+surprise+sad
# lines 14
emotion cross-validate --recipe quick --folds 2 --run.name leaky --data.leak oversample_first \
  --data drawn:largest=120,ratio=8,size=48,confusion=0,classes=neutral+happy+surprise+sad
